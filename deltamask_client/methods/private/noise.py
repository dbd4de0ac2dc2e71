"""Randomness that nobody else has: what hides an image among others.

Everything else random in a run follows from its seed, which the server and all clients know. This does not: it is the
SHAKE-256 stream of a key of the operating system's.
"""

from __future__ import annotations

import hashlib
import os

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Noise"]

_KEY_BYTES = 32


class Noise:
    """One stream, for one answer.

    Parameters
    ----------
    seed
        To repeat an experiment; whoever knows it sees through the noise. None: the operating system's randomness.
    label
        Tells streams of one seed apart.
    """

    def __init__(self, seed: int | None, label: str) -> None:
        self._key = os.urandom(_KEY_BYTES) if seed is None else f"{seed}/{label}".encode()
        self._drawn = 0

    def bits(self, probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Independent bits, bool ``(n,)``, 1 with these probabilities, rounded to a multiple of 2^-32."""
        words = np.frombuffer(self._bytes(4 * len(probabilities)), "<u4")
        return words < np.rint(probabilities * 2.0**32)

    def normal(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Independent standard normal numbers, from 53 bits each, of deviation 8.2 at most."""
        words = np.frombuffer(self._bytes(8 * int(np.prod(shape))), "<u8") >> np.uint64(11)
        uniform = torch.from_numpy((words.astype(np.float64) + 0.5) / 2.0**53)
        drawn: NDArray[np.float64] = torch.special.ndtri(uniform).numpy().reshape(shape)
        return drawn

    def _bytes(self, count: int) -> bytes:
        self._drawn += 1  # each call has a stream of its own
        return hashlib.shake_256(self._key + self._drawn.to_bytes(8, "little")).digest(count)
