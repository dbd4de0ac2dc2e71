"""Check of a site's own images."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from PIL import Image

from common.data.folder import SUFFIXES
from common.data.sources import open_split
from common.errors import DataError, brief
from deltamask_server.tools.doctor.finding import Finding, failed, ok, warning

__all__ = ["check_data"]

_SAMPLE = 20
"""Images of each class that are opened."""


def check_data(data: str, cache: Path) -> list[Finding]:
    """Open a source as a client does, and decode some of its images.

    Parameters
    ----------
    data
        As in the node config, and not empty.
    cache
        The client's cache folder.
    """
    if not data.startswith(("folder:", "npz:", "digits")):
        return [ok("data", f"{data}, from the hub or its cache when a run starts: not looked at")]
    advice = "put images there, in a sub-folder for each class (docs/data.md), or name another folder in the settings"
    root = Path(data.partition(":")[2]).expanduser()
    if data.startswith("folder:") and root.is_dir() and (closed := _closed(root)):
        return [failed("data", f"{closed} cannot be read by account {os.geteuid()}", f"chown or chmod -R u+rX {root}")]
    try:
        split = open_split(data, "train", 0, cache, own=True)
    except (DataError, OSError) as error:
        return [failed("data", brief(error), advice)]
    counts = Counter(split.labels.tolist())
    found = f"{len(split.labels):,} images of {len(counts)} classes in {data}"
    if data.startswith("folder:"):
        if empty := [name for label, name in enumerate(split.classes) if not counts[label]]:
            return [warning("data", f"{found}; none of {', '.join(empty)}", f"remove empty folders, or {advice}")]
        if broken := _broken(root):
            shown = ", ".join(str(path) for path in broken[:3])
            return [
                warning(
                    "data",
                    f"{found}; of a sample {len(broken)} cannot be read: {shown}",
                    "replace or remove them: training leaves them out",
                )
            ]
    return [ok("data", found)]


def _closed(root: Path) -> Path | None:
    """A folder that may not be listed; the walk of the data reader passes over it in silence."""
    found: list[Path] = []
    for _ in os.walk(root, onerror=lambda error: found.append(Path(error.filename))):
        pass
    return found[0] if found else None


def _broken(root: Path) -> list[Path]:
    """Of the first images of every folder, those that Pillow cannot decode."""
    broken = []
    for directory, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [name for name in sorted(names) if name.lower().endswith(SUFFIXES)][:_SAMPLE]:
            path = Path(directory, name)
            try:
                with Image.open(path) as image:
                    image.load()
            except Exception:  # decoders raise whatever they like
                broken.append(path)
    return broken
