"""What a client holds of the global model between rounds, on its disk: theta, head and class list of its newest run.

With the theta of the last round at hand it needs only what changed; without it (first round, lost disk, full disk) it
says so, and the server sends everything.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.errors import WrongModel
from common.models import Head
from common.theta import theta_digest
from deltamask_client.run_file import RunFile

__all__ = ["Held", "ThetaStore", "head_from"]


class Held(NamedTuple):
    """One version of the global model."""

    theta: NDArray[np.uint16]
    """``(d,)``, or signs ``(n,)`` under HideNseek."""
    head: Head
    classes: tuple[str, ...] = ()
    subnetwork: bytes = b""
    """Under HideNseek, what pruning has left, as it was sent."""


def head_from(sent: bytes | None, held: Held | None, classes: int, features: int) -> Head:
    """The global head: as a message brings it, or the one held.

    Raises
    ------
    BadMetric
        If the one sent is damaged.
    WrongModel
        If there is neither.
    """
    if sent is not None:
        return Head.from_bytes(sent, classes, features)
    if held is None:
        raise WrongModel("the server sent no head, and this client holds none")
    return held.head


class ThetaStore(RunFile):
    """Theta of one run and client."""

    folder = "theta"

    def load(self) -> Held | None:
        """What is held of this run, or None."""
        found = self._read()
        if found is None:
            return None
        tensors, texts = found
        head = Head(tensors["head.weight"], tensors["head.bias"])
        classes = tuple(json.loads(texts.get("classes", "[]")))
        return Held(tensors["theta"], head, classes, tensors["subnetwork"].tobytes())

    def digest(self) -> bytes | None:
        """Of theta."""
        held = self.load()
        return None if held is None else theta_digest(held.theta)

    def save(self, held: Held) -> bool:
        """Replace what is held; False if the disk does not take it."""
        tensors: dict[str, NDArray[Any]] = {
            "theta": held.theta,
            "head.weight": held.head.weight,
            "head.bias": held.head.bias,
            "subnetwork": np.frombuffer(held.subnetwork, np.uint8),
        }
        return self._write(tensors, {"classes": json.dumps(list(held.classes))})
