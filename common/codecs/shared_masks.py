"""The masks that a round's clients start from, counted without any of them being written down.

The ``exact`` downlink asks of every position how many of the clients' masks m_g have a one there, and how near the
nearest of their uniforms comes to theta. For K clients these are K streams of d uniforms. A few hundred words of a
stream are drawn at a time, compared and forgotten, and all streams are done with a block of positions before the next
one begins, so that nothing leaves the first cache: about 0.6 ns of one core a position and stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from common.codecs.parallel import for_parts, split
from common.splitmix import GOLDEN, mix
from common.uniforms import LANES

__all__ = ["SharedMasks"]

_MOST_STREAMS = 65_535
_BLOCK = 512
"""Words of a block: their uniforms, theta and both counts of 2048 positions take 16 KiB."""
_SMALLEST = 1 << 14
"""Words below which a thread is not worth its start."""


class SharedMasks:
    """What the shared masks ``[u < theta]`` of several streams of uniforms say together.

    Parameters
    ----------
    theta
        uint16 ``(d,)``, for all of them; not to be changed meanwhile.
    """

    def __init__(self, theta: NDArray[np.uint16]) -> None:
        self.theta = theta
        self.keys: list[int] = []
        """The streams counted so far, `common.uniforms.stream_key`."""
        self.ones = np.zeros(len(theta), dtype=np.uint16)
        """How many of the masks have a one, uint16 ``(d,)``."""
        self.nearest = np.full(len(theta), 65_535, dtype=np.uint16)
        """Smallest ``|u - theta|`` among the streams, uint16 ``(d,)``; 65535 before the first one."""

    @classmethod
    def draw(cls, theta: NDArray[np.uint16], keys: Iterable[int]) -> SharedMasks:
        """Count many streams at once: faster than one after another, and with the same result."""
        masks = cls(theta)
        masks._add(list(keys))
        return masks

    def add(self, key: int) -> None:
        """Count one more stream.

        Raises
        ------
        ValueError
            If that makes more than 65,535 of them, as `draw` does.
        """
        self._add([key])

    def _add(self, keys: list[int]) -> None:
        if len(self.keys) + len(keys) > _MOST_STREAMS:
            raise ValueError(f"{len(self.keys) + len(keys):,} masks; at most {_MOST_STREAMS:,} can be counted")
        streams = np.array(keys, dtype=np.uint64)

        def count(start: int, end: int) -> None:
            where = slice(LANES * start, LANES * end)
            _count(streams, np.uint64(start), self.theta[where], self.ones[where], self.nearest[where])

        for_parts(count, split(-(-len(self.theta) // LANES), _SMALLEST))
        self.keys += keys


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _count(streams: Any, first_word: Any, theta: Any, ones: Any, nearest: Any) -> None:  # pragma: no cover - compiled
    """Count the positions from that of the first lane of word ``first_word`` on."""
    uniforms = np.empty(LANES * _BLOCK, np.uint16)
    for begin in range(0, theta.size, LANES * _BLOCK):
        end = min(begin + LANES * _BLOCK, theta.size)
        # Slices of their own let the compiler see that the loops below run over neighbours: 32 positions at a time.
        thetas, counts, distances = theta[begin:end], ones[begin:end], nearest[begin:end]
        for stream in streams:
            word_at = stream + (first_word + np.uint64(begin // LANES + 1)) * GOLDEN
            for i in range(-(-thetas.size // LANES)):
                word = mix(word_at + np.uint64(i) * GOLDEN)
                for lane in range(LANES):
                    uniforms[LANES * i + lane] = np.uint16(word >> np.uint64(16 * lane))
            for i in range(thetas.size):
                u, q = uniforms[i], thetas[i]
                counts[i] += np.uint16(u < q)
                distances[i] = min(distances[i], max(u, q) - min(u, q))
