"""What a client of HideNseek holds between rounds, on its disk: signs, head, class list, and what pruning has left."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.models.heads import Head
from common.theta import Version
from deltamask_client.run_file import RunFile

__all__ = ["Held", "SignStore"]


class Held(NamedTuple):
    """The global model, or in the place of its signs a client's own."""

    signs: Version
    """As `common.methods.hidenseek.signs.on_grid` has them, ``(n,)``; none where scores travel."""
    head: Head
    classes: tuple[str, ...]
    subnetwork: bytes
    """What pruning has left, as it was sent."""


class SignStore(RunFile):
    """Signs of one run and client."""

    folder = "signs"

    def load(self) -> Held | None:
        """What is held of this run, or None."""
        found = self._read()
        if found is None:
            return None
        tensors, texts = found
        head = Head.from_tensors(tensors)
        classes = tuple(json.loads(texts["classes"]))
        return Held(Version(tensors["signs"]), head, classes, tensors["subnetwork"].tobytes())

    def save(self, held: Held) -> bool:
        """Replace what is held; False if the disk does not take it."""
        tensors: dict[str, NDArray[Any]] = {
            "signs": held.signs.theta,
            **held.head.tensors(),
            "subnetwork": np.frombuffer(held.subnetwork, np.uint8),
        }
        return self._write(tensors, {"classes": json.dumps(list(held.classes))})
