"""The nearest of several clients' uniforms at each position: which client's bit flips first when theta moves.

What ``exact`` says of one client's flips given its uniforms, the ``change`` downlink says of all clients' flips given
the nearest of their uniforms: a position has changed, most likely, because the nearest client's bit has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from common.codecs.parallel import for_parts, split
from common.codecs.state import SharedState
from common.splitmix import GOLDEN, mix
from common.uniforms import LANES

__all__ = ["MAX_SLOT", "Nearest"]

MAX_SLOT = (1 << 15) - 1
_SMALLEST = 1 << 14
"""Words below which a thread is not worth its start."""
_BLOCK = 512
"""Words of a block of positions, which stay in the first cache while all streams pass."""


class Nearest:
    """The nearest uniform among the streams added so far.

    Parameters
    ----------
    theta
        uint16 ``(d,)``, for all of them; not to be changed meanwhile.
    """

    def __init__(self, theta: NDArray[np.uint16]) -> None:
        self.theta = theta
        self._found = np.full(len(theta), 0xFFFF_FFFF, dtype=np.uint32)  # distance, slot, whether it lies below theta

    @classmethod
    def among(cls, theta: NDArray[np.uint16], keys: Mapping[int, int]) -> Nearest:
        """Of these streams: slot to `common.uniforms.stream_key`."""
        nearest = cls(theta)
        nearest.add(keys)
        return nearest

    def add(self, keys: Mapping[int, int]) -> None:
        """Some more streams, in any order; slots are 0..`MAX_SLOT`, and each has one stream."""
        streams = np.array(list(keys.values()), dtype=np.uint64)
        slots = np.array(list(keys), dtype=np.uint32)

        def look(start: int, end: int) -> None:
            where = slice(LANES * start, LANES * end)
            _look(streams, slots, np.uint64(start), self.theta[where], self._found[where])

        for_parts(look, split(-(-len(self.theta) // LANES), _SMALLEST))

    @property
    def slots(self) -> NDArray[np.uint32]:
        """Whose it is, ``(d,)``; the lower slot where two are as near."""
        return (self._found >> np.uint32(1)) & np.uint32(MAX_SLOT)

    @property
    def distances(self) -> NDArray[np.uint32]:
        """How far it is from theta, in 1/65536, ``(d,)``."""
        return self._found >> np.uint32(16)

    @property
    def below(self) -> NDArray[np.bool_]:
        """Whether it lies below theta, ``(d,)``: the client's bit is 1, and can only turn to 0."""
        return (self._found & np.uint32(1)).astype(np.bool_)

    def state(self, segments: tuple[int, ...] | None) -> SharedState:
        """The nearest uniforms in the place of one client's: what position codes take as their context."""
        distance = self.distances.astype(np.int32)
        shared = SharedState(self.theta, 0, 0, 0, segments)
        uniforms = self.theta + np.where(self.below, -distance, distance)
        shared.__dict__["uniforms"] = uniforms.astype(np.uint16)
        return shared


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _look(streams: Any, slots: Any, first_word: Any, theta: Any, found: Any) -> None:  # pragma: no cover - compiled
    for begin in range(0, theta.size, LANES * _BLOCK):
        end = min(begin + LANES * _BLOCK, theta.size)
        thetas, best = theta[begin:end], found[begin:end]
        for s in range(streams.size):
            word_at = streams[s] + (first_word + np.uint64(begin // LANES + 1)) * GOLDEN
            whose = np.uint32(slots[s] << np.uint32(1))
            for i in range(-(-thetas.size // LANES)):
                word = mix(word_at + np.uint64(i) * GOLDEN)
                for lane in range(min(LANES, thetas.size - LANES * i)):
                    u, q = np.uint16(word >> np.uint64(16 * lane)), thetas[LANES * i + lane]
                    distance = np.uint32(max(u, q) - min(u, q))
                    one = np.uint32((distance << np.uint32(16)) | whose | np.uint32(u < q))
                    best[LANES * i + lane] = min(best[LANES * i + lane], one)
