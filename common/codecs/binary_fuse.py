"""3-wise binary fuse filters (Graf, Lemire 2022): built by pyfusefilter's compiled core, large ones by our own builder,
and tested by our own vectorised loop.

A filter of n keys holds about 1.13 n fingerprints of 8, 16 or 32 bits, a small one some more. The core has no 32 bits
and takes more room than large filters need: fuse_build.py builds those. A key of the set always matches; any other key
matches with probability 2^-bits. Membership here is bit-identical to the core's ``contain``, which answers one key a
call; ours runs over millions of consecutive positions with Numba, on all cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from pyfusefilter._xorfilter import ffi, lib

from common.codecs.distance import uniform_bounds
from common.codecs.fuse_build import build_fingerprints
from common.codecs.fuse_geometry import MAX_SEGMENT_LENGTH, TIGHT_KEYS
from common.codecs.fuse_hash import fingerprint_of, hash_of, slots_of
from common.codecs.parallel import for_each, split
from common.errors import BadGeometry, EncodeError

__all__ = ["BinaryFuseFilter", "build_filter", "check_geometry"]

MAX_FINGERPRINTS = (1 << 32) - 1
"""Slots are computed with 32 bits; beyond, they would lie outside the array."""
_BLOCK = 1024
_GROWTHS = (1.0, 1.05, 1.1, 1.2, 1.5, 2.0, 4.0)


@dataclass(frozen=True, eq=False)
class BinaryFuseFilter:
    """A built filter.

    ``fingerprints`` has ``(segment_count + 2) * segment_length`` entries, uint8, uint16 or uint32; ``segment_length``
    is a power of two.
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
        ranges = split(stop)

        def run(index: int) -> None:
            start, end = ranges[index]
            _contains(np.uint64(start), out[start:end], self.fingerprints, *self._geometry())

        for_each(run, len(ranges))
        return out

    def contains_candidates(
        self, uniforms: NDArray[np.uint16], theta: NDArray[np.uint16], threshold: int
    ) -> tuple[NDArray[np.bool_], int]:
        """Membership of the positions whose log-odds distance is at most ``threshold``; the others are not looked up,
        and are no members.

        Parameters
        ----------
        uniforms, theta
            uint16 ``(d,)`` each.
        threshold
            In units of `common.codecs.distance`.

        Returns
        -------
        Membership, bool ``(d,)``, and how many positions were tested.
        """
        out = np.empty(len(theta), dtype=np.bool_)
        low, end_of = uniform_bounds(threshold)
        ranges = split(len(theta))
        tested = np.zeros(len(ranges), dtype=np.int64)

        def run(index: int) -> None:
            start, end = ranges[index]
            tested[index] = _contains_candidates(
                np.uint64(start),
                uniforms[start:end],
                theta[start:end],
                low,
                end_of,
                out[start:end],
                self.fingerprints,
                *self._geometry(),
            )

        for_each(run, len(ranges))
        return out, int(tested.sum())

    def _geometry(self) -> tuple[np.uint64, np.uint64, np.uint64]:
        # A seed may use all 64 bits, which a Python integer would not pass to compiled code as unsigned.
        return np.uint64(self.seed), np.uint64(self.segment_length), np.uint64(self.segment_count * self.segment_length)


@numba.njit(nogil=True, cache=True, inline="always")  # type: ignore[untyped-decorator]
def _matches(  # pragma: no cover - compiled
    h: Any, fingerprints: Any, segment_length: Any, segment_count_length: Any
) -> Any:
    """Whether the three fingerprints of a key with this hash add up."""
    h0, h1, h2 = slots_of(h, segment_length, segment_count_length)
    return fingerprint_of(h, fingerprints) == fingerprints[h0] ^ fingerprints[h1] ^ fingerprints[h2]


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _contains(  # pragma: no cover - compiled
    start: Any, out: Any, fingerprints: Any, seed: Any, segment_length: Any, segment_count_length: Any
) -> None:
    """Write membership of keys ``start ...`` into ``out``."""
    # A block of hashes at a time: the compiler makes vector code of the first loop, and only of that.
    hashes = np.empty(_BLOCK, np.uint64)
    for begin in range(0, out.size, _BLOCK):
        size = min(_BLOCK, out.size - begin)
        for i in range(size):
            hashes[i] = hash_of(start + np.uint64(begin + i), seed)
        for i in range(size):
            out[begin + i] = _matches(hashes[i], fingerprints, segment_length, segment_count_length)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _contains_candidates(  # pragma: no cover - compiled
    start: Any,
    uniforms: Any,
    theta: Any,
    low: Any,
    end_of: Any,
    out: Any,
    fingerprints: Any,
    seed: Any,
    segment_length: Any,
    segment_count_length: Any,
) -> int:
    """The same for candidates only, in one pass; returns their number."""
    tested = 0
    for i in range(out.size):
        u, t = np.int32(uniforms[i]), theta[i]
        out[i] = False
        if low[t] <= u < end_of[t]:
            tested += 1
            h = hash_of(start + np.uint64(i), seed)
            out[i] = _matches(h, fingerprints, segment_length, segment_count_length)
    return tested


def build_filter(keys: NDArray[np.uint64], bits: int) -> BinaryFuseFilter:
    """Build a filter of distinct keys.

    The compiled core builds those of 8 and 16 bits below `TIGHT_KEYS`. It tries 100 seeds for its preferred size and
    gives up for a few n (11,480 to 11,530 in its release of January 2026); we then allow it a larger array, which the
    receiver reads from the header anyway.

    Parameters
    ----------
    keys
        uint64 ``(n,)``, distinct.
    bits
        8, 16 or 32.

    Raises
    ------
    EncodeError
        If no size works, which means that the keys are not distinct.
    """
    if bits == 32 or len(keys) >= TIGHT_KEYS:
        return BinaryFuseFilter(*build_fingerprints(keys, bits))
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
    if segment_count < 1 or not n <= array_length <= min(8 * max(n, 64), MAX_FINGERPRINTS):
        raise BadGeometry(f"{segment_count} segments of {segment_length} for {n} keys")
    return array_length
