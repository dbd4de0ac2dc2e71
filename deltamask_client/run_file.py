"""A file of tensors that a client keeps on its disk between the rounds of one run: never half-written, and removed
when it is old. A deployed client is a new process in every round.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from common.files import replacing

__all__ = ["RunFile"]

_KEPT_SECONDS = 7 * 24 * 3600


class RunFile:
    """One file for each run and client; runs side by side on one device do not disturb each other.

    Parameters
    ----------
    cache
        The node's cache folder.
    client
        Client id, the same after a restart.
    run_id
        Flower's number of the run. What another run left is not used, since its head is another, and removed after a
        week.
    """

    folder: ClassVar[str]
    """Within the cache folder."""

    def __init__(self, cache: Path, client: int, run_id: int) -> None:
        self._run = f"run-{run_id}-"
        self._path = cache / self.folder / f"{self._run}client-{client}.safetensors"

    def _read(self) -> tuple[dict[str, NDArray[Any]], dict[str, str]] | None:
        """Tensors and texts, or None."""
        try:
            with safe_open(self._path, "np") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except (OSError, SafetensorError, TypeError, AttributeError):  # the last two: of types that numpy lacks
            return None

    def _write(self, tensors: Mapping[str, NDArray[Any]], texts: dict[str, str]) -> bool:
        """Replace what is held; False if the disk does not take it, which costs bytes in the next round, no more."""
        try:
            with replacing(self._path) as temporary:
                save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, temporary, texts)
            self._remove_old()
        except (OSError, SafetensorError):
            return False
        return True

    def _remove_old(self) -> None:
        # Those of this run stay whatever the clock says: it may have been set meanwhile.
        for path in self._path.parent.glob("run-*"):
            if path.name.startswith(self._run):
                continue
            with suppress(FileNotFoundError):  # another client has just removed or renamed it
                if path.stat().st_mtime < time.time() - _KEPT_SECONDS:
                    path.unlink()
