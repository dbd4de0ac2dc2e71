"""What a client holds of the global model between rounds, on its disk: theta, head and class list of its newest run.

A deployed client is a new process in every round. With the theta of the last round at hand it needs only what changed;
without it (first round, lost disk, full disk) it says so, and the server sends everything.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from common.models import Head

__all__ = ["Held", "ThetaStore"]

_KEPT_SECONDS = 7 * 24 * 3600


class Held(NamedTuple):
    """One version of the global model."""

    theta: NDArray[np.uint16]
    """``(d,)``, or signs ``(n,)`` under HideNseek."""
    head: Head
    classes: tuple[str, ...] = ()
    subnetwork: bytes = b""
    """Under HideNseek, what pruning has left, as it was sent."""


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
        """What is held of this run, or None."""
        try:
            with safe_open(self._path, "np") as file:
                head = Head(file.get_tensor("head.weight"), file.get_tensor("head.bias"))
                classes = tuple(json.loads((file.metadata() or {}).get("classes", "[]")))
                return Held(file.get_tensor("theta"), head, classes, file.get_tensor("subnetwork").tobytes())
        except (OSError, SafetensorError):
            return None

    def save(self, held: Held) -> bool:
        """Replace what is held; False if the disk does not take it, which costs bytes in the next round, no more."""
        tensors = {
            name: np.ascontiguousarray(value)
            for name, value in (
                ("theta", held.theta),
                ("head.weight", held.head.weight),
                ("head.bias", held.head.bias),
                ("subnetwork", np.frombuffer(held.subnetwork, np.uint8)),
            )
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._path.parent, suffix=".tmp")
            os.close(handle)
            try:
                save_file(tensors, name, {"classes": json.dumps(list(held.classes))})
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
