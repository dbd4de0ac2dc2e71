"""``fuse8`` and ``fuse16``: the paper's codec. The selected delta goes into a binary fuse filter, its fingerprints into
a grayscale PNG.

The receiver tests every position 0 .. d - 1: the selected flips all match, and each other position matches by mistake
with probability 2^-bits. Body: filter seed (8 bytes), log2 of the segment length (1), segment count (4), PNG. An empty
delta has an empty body.
"""

from __future__ import annotations

import math
import struct
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from common.codecs.base import DeltaCodec
from common.codecs.binary_fuse import BinaryFuseFilter, build_filter, check_geometry
from common.codecs.png import pack_png, unpack_png
from common.codecs.state import SharedState
from common.errors import BadGeometry, ImplausibleDelta, TruncatedPayload

__all__ = ["Fuse8", "Fuse16", "FuseCodec"]

_GEOMETRY = struct.Struct("<QBI")


class FuseCodec(DeltaCodec):
    """Binary fuse filter of the selected delta, as a PNG."""

    bits: ClassVar[int]

    def _encode_positions(self, positions: NDArray[np.int64], shared: SharedState) -> bytes:
        if len(positions) == 0:
            return b""
        fuse = build_filter(positions.astype(np.uint64), self.bits)
        geometry = _GEOMETRY.pack(fuse.seed, fuse.segment_length.bit_length() - 1, fuse.segment_count)
        return geometry + pack_png(fuse.fingerprints.view(np.uint8))

    def _decode_flips(self, n: int, body: bytes, shared: SharedState) -> NDArray[np.bool_]:
        if n == 0:
            if body:
                raise BadGeometry("a filter for an empty delta")
            return np.zeros(shared.d, dtype=np.bool_)
        flips = self.read_filter(n, body).contains_range(shared.d)
        self._check_matches(n, int(np.count_nonzero(flips)), shared.d)
        return flips

    def read_filter(self, n: int, body: bytes) -> BinaryFuseFilter:
        """Rebuild the filter of ``n`` keys from a body; raises PayloadError."""
        if len(body) < _GEOMETRY.size:
            raise TruncatedPayload(f"{len(body)} bytes of filter; the geometry alone has {_GEOMETRY.size}")
        seed, log2_length, segment_count = _GEOMETRY.unpack_from(body)
        array_length = check_geometry(n, 1 << min(log2_length, 63), segment_count)
        data = unpack_png(body[_GEOMETRY.size :], array_length * self.bits // 8)
        return BinaryFuseFilter(seed, 1 << log2_length, segment_count, data.view(f"<u{self.bits // 8}"))

    def _check_matches(self, n: int, matches: int, d: int) -> None:
        """A filter matches its n keys and a binomial number of others: six standard deviations more, or one fewer, is
        not a filter of n keys.
        """
        mean = (d - n) / 2**self.bits
        if not n <= matches <= n + mean + 6 * math.sqrt(mean) + 10:
            raise ImplausibleDelta(f"the filter says {n} keys and matches {matches} of {d} positions")


class Fuse8(FuseCodec):
    """8-bit fingerprints: about 9 bits a flip, and one position in 256 flipped by mistake."""

    name = "fuse8"
    number = 1
    bits = 8


class Fuse16(FuseCodec):
    """16-bit fingerprints: about 18 bits a flip, and one position in 65,536 flipped by mistake."""

    name = "fuse16"
    number = 2
    bits = 16
