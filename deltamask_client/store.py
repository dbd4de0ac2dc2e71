"""What a client holds of the global model between rounds, on its disk: theta, head and class list of its newest run.

With the theta of the last round at hand it needs only what changed; without it (first round, lost disk, full disk) it
says so, and the server sends everything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.models import Head
from common.theta import theta_digest
from deltamask_client.run_file import RunFile

__all__ = ["Held", "ThetaStore"]

Held = tuple[NDArray[np.uint16], Head, tuple[str, ...]]


class ThetaStore(RunFile):
    """Theta of one run and client."""

    folder = "theta"

    def load(self) -> Held | None:
        """Theta, head and class list of this run, or None."""
        found = self._read()
        if found is None:
            return None
        tensors, texts = found
        head = Head(tensors["head.weight"], tensors["head.bias"])
        return tensors["theta"], head, tuple(json.loads(texts.get("classes", "[]")))

    def digest(self) -> bytes | None:
        """Of theta."""
        held = self.load()
        return None if held is None else theta_digest(held[0])

    def save(self, theta: NDArray[np.uint16], head: Head, classes: Sequence[str] = ()) -> bool:
        """Replace what is held; False if the disk does not take it."""
        return self._write(
            {"theta": theta, "head.weight": head.weight, "head.bias": head.bias},
            {"classes": json.dumps(list(classes))},
        )
