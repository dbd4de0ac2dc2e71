"""Check of a site's own images."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from common.data.inventory import Inventory
from common.data.pixel_range import PixelRange
from common.data.sources import open_split
from common.errors import DataError, brief
from deltamask_server.tools.doctor.finding import Finding, failed, ok, warning
from deltamask_server.tools.doctor.sample import look_at_arrays, look_at_files

__all__ = ["check_data"]

_SHOWN = 10


def check_data(data: str, cache: Path, pixel_range: PixelRange | None = None) -> list[Finding]:
    """Open a source as a client does, count what becomes of its files, and decode as many images as a few seconds
    allow.

    Parameters
    ----------
    data
        As in the node config, and not empty.
    cache
        The client's cache folder.
    pixel_range
        As the node config says.
    """
    if not data.startswith(("folder:", "npz:", "digits")):
        return [ok("data", f"{data}, from the hub or its cache when a run starts: not looked at")]
    advice = "put images there, in a sub-folder for each class (docs/data.md), or name another folder in the settings"
    root = Path(data.partition(":")[2]).expanduser()
    if data.startswith("folder:") and root.is_dir() and (closed := _closed(root)):
        return [failed("data", f"{closed} cannot be read by account {os.geteuid()}", f"chown or chmod -R u+rX {root}")]
    try:
        split = open_split(data, "train", 0, cache, own=True, pixel_range=pixel_range)
    except (DataError, OSError) as error:
        return [failed("data", brief(error), advice)]
    counts = Counter(split.labels.tolist())
    named = [f"{brief(split.classes[label])} {count:,}" for label, count in sorted(counts.items())]
    shown = ", ".join(named[:_SHOWN]) + (", ..." if len(named) > _SHOWN else "")
    found = f"{len(split.labels):,} images of {len(counts)} classes in {data} ({shown})"
    if split.inventory is None:
        return [ok("data", found), look_at_arrays(split)]
    return [ok("data", found), _files(split.inventory), look_at_files(split.inventory, pixel_range)]


def _files(inventory: Inventory) -> Finding:
    """What is used, what is not, and what comes twice."""
    duplicates = inventory.duplicates()
    found = inventory.text(duplicates)
    if not inventory.suspicious(duplicates):
        return ok("data: files", found)
    advice = "look at the examples: convert, rename, move or remove such files and folders (docs/data.md)"
    return warning("data: files", found, advice)


def _closed(root: Path) -> Path | None:
    """A folder that may not be listed: its images are this site's as well."""
    found: list[Path] = []
    for _ in os.walk(root, onerror=lambda error: found.append(Path(error.filename))):
        pass
    return found[0] if found else None
