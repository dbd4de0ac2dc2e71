"""The nearest of several clients' uniforms at each position: which client's bit flips first when theta moves.

What ``exact`` says of one client's flips given its uniforms, the ``change`` downlink says of all clients' flips given
the nearest of their uniforms: a position has changed, most likely, because the nearest client's bit has. Clients that
have learnt more flip more, and further away, so that distances count by how much each has sent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from common.codecs.parallel import for_parts, split
from common.codecs.state import SharedState
from common.splitmix import GOLDEN, mix
from common.uniforms import LANES

__all__ = ["MOST_REMOTE", "Nearest", "remoteness"]

_MOST_SLOT = (1 << 15) - 1
MOST_REMOTE = 24
"""Largest remoteness: distances count 2^6-fold."""
_QUARTERS = (256, 304, 362, 431)
"""2^(8 + i / 4)."""
_SMALLEST = 1 << 14
"""Words below which a thread is not worth its start."""
_BLOCK = 512
"""Words of a block of positions, which stay in the first cache while all streams pass."""


def remoteness(sizes: Sequence[int]) -> list[int]:
    """By how many quarter octaves the distances of each client's uniforms count more than those of the client that has
    sent most: the shorter its payload, the less likely any of its bits has flipped.
    """
    most = max(sizes)
    return [min(MOST_REMOTE, round(4 * math.log2(most / size))) for size in sizes]


class Nearest:
    """The nearest uniform at each position.

    Parameters
    ----------
    theta
        uint16 ``(d,)``, for all streams; not to be changed meanwhile.
    streams
        Slot, 0..32767, to `common.uniforms.stream_key` and `remoteness`.
    """

    def __init__(self, theta: NDArray[np.uint16], streams: Mapping[int, tuple[int, int]]) -> None:
        if max(streams) > _MOST_SLOT:
            raise ValueError(f"slot {max(streams)}; at most {_MOST_SLOT}")
        self.theta = theta
        self._found = np.full(len(theta), 0xFFFF_FFFF, dtype=np.uint32)  # distance, slot, whether it lies below theta
        slots = np.array(list(streams), dtype=np.uint32)
        keys = np.array([key for key, _ in streams.values()], dtype=np.uint64)
        factors = np.array([_QUARTERS[c % 4] << c // 4 for _, c in streams.values()], dtype=np.uint32)

        def look(start: int, end: int) -> None:
            where = slice(LANES * start, LANES * end)
            _look(keys, slots, factors, np.uint64(start), theta[where], self._found[where])

        for_parts(look, split(-(-len(theta) // LANES), _SMALLEST))

    @property
    def slots(self) -> NDArray[np.uint32]:
        """Whose it is, ``(d,)``; the lower slot where two are as near."""
        return (self._found >> np.uint32(1)) & np.uint32(_MOST_SLOT)

    @property
    def distances(self) -> NDArray[np.uint32]:
        """How far it is from theta, as it counts, in 1/65536, at most 65535, ``(d,)``."""
        return self._found >> np.uint32(16)

    @property
    def below(self) -> NDArray[np.bool_]:
        """Whether it lies below theta, ``(d,)``: the client's bit is 1, and can only turn to 0."""
        return (self._found & np.uint32(1)).astype(np.bool_)

    def state(self, segments: tuple[int, ...] | None) -> SharedState:
        """The nearest uniforms, as far as they count, in the place of one client's: what codes of positions take as
        their context.
        """
        distance, theta = self.distances.astype(np.int32), self.theta.astype(np.int32)
        shared = SharedState(self.theta, 0, 0, 0, segments)
        uniforms = np.where(self.below, np.maximum(theta - distance, 0), np.minimum(theta + distance, 65_535))
        shared.__dict__["uniforms"] = uniforms.astype(np.uint16)
        return shared


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _look(
    streams: Any, slots: Any, factors: Any, first_word: Any, theta: Any, found: Any
) -> None:  # pragma: no cover - compiled
    for begin in range(0, theta.size, LANES * _BLOCK):
        end = min(begin + LANES * _BLOCK, theta.size)
        thetas, best = theta[begin:end], found[begin:end]
        for s in range(streams.size):
            word_at = streams[s] + (first_word + np.uint64(begin // LANES + 1)) * GOLDEN
            whose, factor = np.uint32(slots[s] << np.uint32(1)), factors[s]
            for i in range(-(-thetas.size // LANES)):
                word = mix(word_at + np.uint64(i) * GOLDEN)
                for lane in range(min(LANES, thetas.size - LANES * i)):
                    u, q = np.uint16(word >> np.uint64(16 * lane)), thetas[LANES * i + lane]
                    distance = np.uint32(max(u, q) - min(u, q))
                    counts = min(np.uint32((distance * factor) >> np.uint32(8)), np.uint32(65_535))
                    one = np.uint32((counts << np.uint32(16)) | whose | np.uint32(u < q))
                    best[LANES * i + lane] = min(best[LANES * i + lane], one)
