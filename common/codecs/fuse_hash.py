"""The arithmetic that building a binary fuse filter and asking it share: hash, slots and fingerprint of a key, as in
Graf and Lemire's reference implementation (2022).

All integers are uint64: one signed operand would turn them into floats. The functions are compiled into their callers.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

__all__ = ["fingerprint_of", "hash_of", "slots_of"]


@intrinsic  # type: ignore[untyped-decorator]
def _high_half(context: Any, a: Any, b: Any) -> Any:
    """High 64 bits of a product of two uint64: one instruction of most processors, but Numba has no name for it."""

    def generate(_context: Any, builder: Any, _signature: Any, factors: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(factor, wide) for factor in factors))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return numba.types.uint64(numba.types.uint64, numba.types.uint64), generate


@numba.njit(nogil=True, cache=True, inline="always")  # type: ignore[untyped-decorator]
def hash_of(key: Any, seed: Any) -> Any:  # pragma: no cover - compiled
    """MurmurHash3's 64-bit finaliser of ``key + seed``: a bijection, so distinct keys have distinct hashes."""
    u33 = np.uint64(33)
    h = key + seed
    h ^= h >> u33
    h *= np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> u33
    h *= np.uint64(0xC4CEB9FE1A85EC53)
    h ^= h >> u33
    return h


@numba.njit(nogil=True, cache=True, inline="always")  # type: ignore[untyped-decorator]
def slots_of(h: Any, length: Any, count_length: Any) -> Any:  # pragma: no cover - compiled
    """The three slots of a hash; ``length`` is the segment length, ``count_length`` times the segment count."""
    mask = length - np.uint64(1)
    h0 = _high_half(h, count_length)
    return h0, (h0 + length) ^ ((h >> np.uint64(18)) & mask), (h0 + length + length) ^ (h & mask)


@numba.njit(nogil=True, cache=True, inline="always")  # type: ignore[untyped-decorator]
def fingerprint_of(h: Any, fingerprints: Any) -> Any:  # pragma: no cover - compiled
    """The fingerprint of a hash, of the type that ``fingerprints`` has."""
    return fingerprints.dtype.type(h ^ (h >> np.uint64(32)))
