"""What a client of DeltaMask holds of the global model between rounds, on its disk.

With the theta of the last round at hand it needs only what changed; without it (first round, lost disk, full disk) it
says so, and the server sends everything.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from numpy.typing import NDArray

from common.models.heads import Head
from common.theta import Version
from deltamask_client.run_file import RunFile

__all__ = ["Held", "ThetaStore"]


class Held(NamedTuple):
    """One version of the global model."""

    version: Version
    head: Head
    classes: tuple[str, ...] = ()


class ThetaStore(RunFile):
    """Theta, head and class list of one run and client."""

    folder = "theta"

    def load(self) -> Held | None:
        """What is held of this run, or None."""
        found = self._read()
        if found is None:
            return None
        tensors, texts = found
        head = Head.from_tensors(tensors)
        return Held(Version(tensors["theta"]), head, tuple(json.loads(texts["classes"])))

    def save(self, held: Held) -> bool:
        """Replace what is held; False if the disk does not take it."""
        tensors: dict[str, NDArray[Any]] = {
            "theta": held.version.theta,
            **held.head.tensors(),
        }
        return self._write(tensors, {"classes": json.dumps(list(held.classes))})
