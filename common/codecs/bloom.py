"""``bloom``: the selected delta in a Bloom filter, the index coding of DeepReduce (Xu et al., NeurIPS 2021), for
comparison with the binary fuse filter.

At the same rate of mistakes a Bloom filter takes 1.44 * log2(1 / rate) bits a key, 11.5 for 2^-8, where a fuse filter
takes 9. DeepReduce repairs false positives by policies on the values that it sends with them; a mask has no values, so
here they are flips by mistake, as with the paper's codec.

Body: k (1 byte): number of hashes, and the rate is 2^-k. Then the bits, lowest first: ``ceil(n * k / ln 2)`` of them,
so that half are set. Half ones, half zeros at random do not compress: there is no PNG and no zlib. An empty delta has
an empty body.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from common.codecs.base import Body, Bound, DeltaCodec
from common.codecs.fuse import check_matches
from common.codecs.parallel import for_each, split
from common.codecs.state import SharedState
from common.errors import BadGeometry, EncodeError, ImplausibleDelta, TruncatedPayload
from common.splitmix import GOLDEN, mix

__all__ = ["Bloom"]

_MOST_HASHES = 32
_MOST_BITS = 1 << 32
_PER_KEY = 94_549
"""2^16 / ln 2, rounded up."""


class Bloom(DeltaCodec):
    """Bloom filter of the selected delta.

    Parameters
    ----------
    keep
        kappa of this call, in (0, 1].
    hashes
        k, 1 to 32: another position matches with probability 2^-k. The payload says which: a decoder reads any.
    """

    name = "bloom"
    number = 7

    def __init__(self, keep: float = 1.0, gain: float = 1.0, left_out: float = 0.0, hashes: int = 8) -> None:
        super().__init__(keep, gain, left_out)
        if not 1 <= hashes <= _MOST_HASHES:
            raise ValueError(f"hashes must be 1 to {_MOST_HASHES}, got {hashes}")
        self.hashes = hashes

    def encode_positions(self, positions: NDArray[np.int64], shared: SharedState) -> bytes:
        """Encode ascending positions."""
        if len(positions) == 0:
            return b""
        size = _bits(len(positions), self.hashes)
        if size > _MOST_BITS:
            raise EncodeError(f"a Bloom filter of {len(positions)} keys would have {size} bits; at most {_MOST_BITS}")
        table = np.zeros(-(-size // 8), dtype=np.uint8)
        _insert(positions.astype(np.uint64), table, np.uint64(size), self.hashes)
        return bytes([self.hashes]) + table.tobytes()

    def bound(self, theta_local: NDArray[np.float32], shared: SharedState) -> Bound | None:
        """A bit a flip for each hash: what any filter with as many mistakes takes among very many positions."""
        flips = len(self.selected_delta(theta_local, shared))
        return Bound(f"{self.hashes} bits a flip", float(self.hashes * flips))

    def describe(self, n: int, body: bytes) -> Body:
        """Explain a body: hashes and bits."""
        if n == 0:
            _check_no_body(body)
            return Body({}, {})
        hashes, size, table, ones = _read(n, body)
        fields: dict[str, str | int] = {
            "hashes": hashes,
            "bits": f"{size:,}, {size / n:.2f} a flip; {ones:,} are set ({100 * ones / size:.1f} %)",
        }
        return Body(fields, {"hashes": 1, "bits": len(table)})

    def decode_flips(self, n: int, body: bytes, shared: SharedState) -> NDArray[np.bool_]:
        """Return the flips, bool ``(d,)``; raise PayloadError on anything odd."""
        if n == 0:
            _check_no_body(body)
            return np.zeros(shared.d, dtype=np.bool_)
        hashes, size, table, ones = _read(n, body)
        flips = np.empty(shared.d, dtype=np.bool_)
        ranges = split(shared.d)

        def run(index: int) -> None:
            start, end = ranges[index]
            _contains(np.uint64(start), flips[start:end], table, np.uint64(size), hashes)

        for_each(run, len(ranges))
        # The probes of a position are not independent, which a small filter shows: one of 80 bits was seen to match six
        # times as often as its share of ones says.
        rate = min(1.0, min(1.0, ones / size) ** hashes * (1 + 2000 / size))
        check_matches(n, int(np.count_nonzero(flips)), shared.d, rate)
        return flips


def _check_no_body(body: bytes) -> None:
    if body:
        raise BadGeometry("a filter for an empty delta")


def _read(n: int, body: bytes) -> tuple[int, int, NDArray[np.uint8], int]:
    """Number of hashes, size in bits, the bits and how many of them are set; checked."""
    if not body:
        raise TruncatedPayload(f"no filter for {n} keys")
    hashes, table = body[0], np.frombuffer(body, dtype=np.uint8, offset=1)
    size = _bits(n, hashes)
    if not 1 <= hashes <= _MOST_HASHES or size > _MOST_BITS or len(table) != -(-size // 8):
        raise BadGeometry(f"{len(table)} bytes of filter for {n} keys and {hashes} hashes")
    # n random keys set half of the bits, with a standard deviation below sqrt(size) / 2. A filter with six deviations
    # more was not made of n keys, and would match too many positions. Of a small filter the number of bits that n keys
    # can set at all is the tighter limit.
    ones = int(np.bitwise_count(table).sum())
    if ones > min(n * hashes, size / 2 + 3 * math.sqrt(size) + 8):
        raise ImplausibleDelta(f"{ones} of {size} bits are set by {n} keys and {hashes} hashes")
    return hashes, size, table, ones


def _bits(n: int, hashes: int) -> int:
    """Size of the filter: ``n * hashes / ln 2``, from integers."""
    return max(8, (n * hashes * _PER_KEY >> 16) + 1)


# The two halves of SplitMix64's first output word for a position are the two hashes that the others are made of
# (Kirsch, Mitzenmacher 2006).


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _insert(keys: Any, table: Any, size: Any, hashes: Any) -> None:  # pragma: no cover - compiled
    low32, u32 = np.uint64(0xFFFFFFFF), np.uint64(32)
    for key in keys:
        h = mix(key + GOLDEN)
        at, step = h & low32, (h >> u32) | np.uint64(1)
        for _ in range(hashes):
            bit = (at * size) >> u32
            table[bit >> np.uint64(3)] |= np.uint8(1) << np.uint8(bit & np.uint64(7))
            at = (at + step) & low32


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _contains(start: Any, out: Any, table: Any, size: Any, hashes: Any) -> None:  # pragma: no cover - compiled
    low32, u32 = np.uint64(0xFFFFFFFF), np.uint64(32)
    for i in range(out.size):
        h = mix(start + np.uint64(i) + GOLDEN)
        at, step = h & low32, (h >> u32) | np.uint64(1)
        found = True
        for _ in range(hashes):
            bit = (at * size) >> u32
            if not (table[bit >> np.uint64(3)] >> np.uint8(bit & np.uint64(7))) & np.uint8(1):
                found = False
                break
            at = (at + step) & low32
        out[i] = found
