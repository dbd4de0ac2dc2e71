"""Which form of theta each client is sent: the steps since the version it holds, or the whole, whichever is shorter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.downlink import MAX_STEPS, join_chain, pack_float32, pack_quantised, pack_same
from common.saved import Saved
from common.theta import Version

__all__ = ["Downlink"]


@dataclass(frozen=True)
class _Step:
    base: bytes
    """Digest of the version before."""
    data: bytes | None
    """Encoded difference from the version before; None if there is no code for it."""


class Downlink:
    """The newest theta, and the steps that led to it.

    Parameters
    ----------
    segments
        Layer sizes.
    version
        The first theta.
    whole
        How theta travels to those who hold no version that leads on: ``float32`` or ``quantised``.
    """

    def __init__(self, segments: Sequence[int], version: Version, whole: str = "quantised") -> None:
        self._segments, self._version, self._form = tuple(segments), version, whole
        self._steps: list[_Step] = []
        self._whole: bytes | None = None

    def publish(self, version: Version, step: Callable[[Version, Version], bytes | None] | None = None) -> None:
        """A new version.

        Parameters
        ----------
        version
            The new theta.
        step
            Encodes the new theta (first argument) for those who hold the one before (second argument), or returns
            None if it cannot. None: nobody is sent a difference.
        """
        if step is not None and version.digest != self._version.digest:
            data = step(version, self._version)
            self._steps = [*self._steps, _Step(self._version.digest, data)][-MAX_STEPS:]
        self._version, self._whole = version, None

    def message(self, held: bytes | None) -> bytes:
        """The chain for a client that holds the version with digest ``held`` (None: nothing)."""
        if held == self._version.digest:
            return join_chain([pack_same(self._version)])
        if self._whole is None:
            float32 = self._form == "float32"
            pack = pack_float32(self._version) if float32 else pack_quantised(self._version, self._segments)
            self._whole = join_chain([pack])
        bases = [step.base for step in self._steps]
        if held not in bases:
            return self._whole
        since = [step.data for step in self._steps[bases.index(held) :]]
        chain = join_chain([data for data in since if data is not None])
        return chain if None not in since and len(chain) < len(self._whole) else self._whole

    def state(self) -> Saved:
        """The steps; theta itself is its owner's to keep."""
        kept = {f"step-{i}": np.frombuffer(step.data or b"", np.uint8) for i, step in enumerate(self._steps)}
        return Saved({**kept}, {"bases": [step.base.hex() for step in self._steps]})

    def load_state(self, saved: Saved, version: Version) -> None:
        """Go on with these steps, the last of which led to ``version``."""
        bases = [bytes.fromhex(base) for base in saved.values["bases"]]
        self._steps = [_Step(base, saved.arrays[f"step-{i}"].tobytes() or None) for i, base in enumerate(bases)]
        self._version, self._whole = version, None
