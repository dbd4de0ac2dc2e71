"""3-wise binary fuse filters (Graf, Lemire 2022): built by pyfusefilter's compiled core, tested by our own vectorised
loop.

A filter of n keys holds about 1.125 n fingerprints of 8 or 16 bits. A key of the set always matches; any other key
matches with probability 2^-bits. Membership here is bit-identical to the core's ``contain``, which answers one key a
call; ours runs over millions of consecutive positions with Numba, on all cores.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from pyfusefilter._xorfilter import ffi, lib

from common.errors import BadGeometry, EncodeError

__all__ = ["BinaryFuseFilter", "build_filter", "check_geometry"]

MAX_SEGMENT_LENGTH = 262_144
_GROWTHS = (1.0, 1.05, 1.1, 1.2, 1.5, 2.0, 4.0)


@dataclass(frozen=True, eq=False)
class BinaryFuseFilter:
    """A built filter.

    ``fingerprints`` has ``(segment_count + 2) * segment_length`` entries, uint8 or uint16; ``segment_length`` is a
    power of two.
    """

    seed: int
    segment_length: int
    segment_count: int
    fingerprints: NDArray[Any]

    @property
    def bits(self) -> int:
        """Bits of a fingerprint: false positives have probability 2^-bits."""
        return 8 * self.fingerprints.itemsize

    def contains_range(self, stop: int) -> NDArray[np.bool_]:
        """Membership of every position ``0 .. stop - 1`` as a key; bool ``(stop,)``."""
        out = np.empty(stop, dtype=np.bool_)
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        chunk = max(1 << 18, -(-stop // (4 * workers)))

        def run(start: int) -> None:
            _contains(
                np.uint64(start),
                out[start : start + chunk],
                self.fingerprints,
                np.uint64(self.seed),
                np.uint64(self.segment_length),
                np.uint64(self.segment_count * self.segment_length),
            )

        starts = range(0, stop, chunk)
        if len(starts) == 1:
            run(0)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(run, starts))
        return out


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _contains(  # pragma: no cover - compiled
    start: Any, out: Any, fingerprints: Any, seed: Any, segment_length: Any, segment_count_length: Any
) -> None:
    """Write membership of keys ``start ...`` into ``out``. All integers are uint64: one signed operand would turn them
    into floats.
    """
    u18, u32, u33 = np.uint64(18), np.uint64(32), np.uint64(33)
    low32 = np.uint64(0xFFFFFFFF)
    index_mask = segment_length - np.uint64(1)
    for i in range(out.size):
        # murmur64 finaliser of key + seed
        h = start + np.uint64(i) + seed
        h ^= h >> u33
        h *= np.uint64(0xFF51AFD7ED558CCD)
        h ^= h >> u33
        h *= np.uint64(0xC4CEB9FE1A85EC53)
        h ^= h >> u33
        # high 64 bits of h * segment_count_length, whose second factor has 32 bits
        h0 = ((h >> u32) * segment_count_length + (((h & low32) * segment_count_length) >> u32)) >> u32
        h1 = (h0 + segment_length) ^ ((h >> u18) & index_mask)
        h2 = (h0 + segment_length + segment_length) ^ (h & index_mask)
        fingerprint = fingerprints.dtype.type(h ^ (h >> u32))
        out[i] = fingerprint == fingerprints[h0] ^ fingerprints[h1] ^ fingerprints[h2]


def build_filter(keys: NDArray[np.uint64], bits: int) -> BinaryFuseFilter:
    """Build a filter of distinct keys with the compiled core.

    The core tries 100 seeds for its preferred size and gives up for a few n (11,480 to 11,530 in its release of January
    2026); we then allow it a larger array, which the receiver reads from the header anyway.

    Parameters
    ----------
    keys
        uint64 ``(n,)``, distinct.
    bits
        8 or 16.

    Raises
    ------
    EncodeError
        If no size works, which means that the keys are not distinct.
    """
    name = {8: "binary_fuse8", 16: "binary_fuse16"}[bits]
    allocate, populate, free = (getattr(lib, f"{name}_{verb}") for verb in ("allocate", "populate", "free"))
    keys = np.array(keys, dtype=np.uint64)  # a copy: the core may reorder keys
    for growth in _GROWTHS:
        core = ffi.gc(ffi.new(f"{name}_t *"), free)
        if not allocate(round(len(keys) * growth), core):
            raise EncodeError(f"no memory for a filter of {len(keys)} keys")
        core.Size = len(keys)
        if populate(ffi.from_buffer("uint64_t[]", keys), len(keys), core):
            dtype = np.dtype(f"<u{bits // 8}")
            fingerprints = np.frombuffer(
                ffi.buffer(core.Fingerprints, core.ArrayLength * dtype.itemsize), dtype=dtype
            ).copy()
            return BinaryFuseFilter(core.Seed, core.SegmentLength, core.SegmentCount, fingerprints)
    raise EncodeError(f"no binary fuse filter found for {len(keys)} keys: they are probably not distinct")


def check_geometry(n: int, segment_length: int, segment_count: int) -> int:
    """Check sizes that came over the wire and return the number of fingerprints.

    Raises
    ------
    BadGeometry
        If the sizes are impossible, or so large for n keys that only an attack explains them.
    """
    if not 1 <= segment_length <= MAX_SEGMENT_LENGTH or segment_length & (segment_length - 1):
        raise BadGeometry(f"segment length {segment_length} is not a power of two up to {MAX_SEGMENT_LENGTH}")
    array_length = (segment_count + 2) * segment_length
    if segment_count < 1 or array_length > 8 * max(n, 64):
        raise BadGeometry(f"{segment_count} segments of {segment_length} for {n} keys")
    return array_length
