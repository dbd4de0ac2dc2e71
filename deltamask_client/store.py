"""What a client holds of the global model between rounds, on its disk: theta, head and class list of its newest run.

A deployed client is a new process in every round. With the theta of the last round at hand it needs only what changed;
without it (first round, lost disk, full disk) it says so, and the server sends everything.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from common.models import Head

__all__ = ["Held", "ThetaStore"]

_KEPT_SECONDS = 7 * 24 * 3600

Held = tuple[NDArray[np.uint16], Head, tuple[str, ...]]


class ThetaStore:
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

    def __init__(self, cache: Path, client: int, run_id: int) -> None:
        self._path = cache / "theta" / f"run-{run_id}-client-{client}.safetensors"

    def load(self) -> Held | None:
        """Theta, head and class list of this run, or None."""
        try:
            with safe_open(self._path, "np") as file:
                head = Head(file.get_tensor("head.weight"), file.get_tensor("head.bias"))
                return file.get_tensor("theta"), head, tuple(json.loads((file.metadata() or {}).get("classes", "[]")))
        except (OSError, SafetensorError):
            return None

    def save(self, theta: NDArray[np.uint16], head: Head, classes: Sequence[str] = ()) -> bool:
        """Replace what is held; False if the disk does not take it, which costs bytes in the next round, no more."""
        tensors = {
            name: np.ascontiguousarray(value)
            for name, value in (("theta", theta), ("head.weight", head.weight), ("head.bias", head.bias))
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._path.parent, suffix=".tmp")
            os.close(handle)
            try:
                save_file(tensors, name, {"classes": json.dumps(list(classes))})
                os.replace(name, self._path)
            finally:
                Path(name).unlink(missing_ok=True)
            self._remove_old()
        except (OSError, SafetensorError):
            return False
        return True

    def _remove_old(self) -> None:
        for path in self._path.parent.glob("run-*"):
            if path.stat().st_mtime < time.time() - _KEPT_SECONDS:
                path.unlink(missing_ok=True)
