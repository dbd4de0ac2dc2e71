"""``fuse8``, ``fuse16`` and ``fuse32``: the paper's codec. The selected delta goes into a binary fuse filter, its
fingerprints into a grayscale PNG.

The paper's receiver tests every position 0 .. d - 1: the selected flips all match, and each other position matches by
mistake with probability 2^-bits. With ``candidates`` (ours, the default) the payload also says how far the furthest
flip's u lies from theta, and only positions within that distance are tested: about a tenth of them, so about a tenth of
the mistakes, for two bytes.

Body: filter seed (8 bytes), log2 of the segment length (1), segment count (4), PNG. With candidates the second field
has its top bit set, and the threshold (2) stands before the PNG. An empty delta has an empty body.
"""

from __future__ import annotations

import math
import struct
from typing import ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.codecs.base import Body, Bound, Client, DeltaCodec, DeltaSection, delta_options
from common.codecs.binary_fuse import BinaryFuseFilter, build_filter, check_geometry
from common.codecs.distance import UNIT, distance_histogram, distances, uniform_bounds
from common.codecs.fuse_geometry import TIGHT_KEYS
from common.codecs.png import check_png, image_shape, pack_png, unpack_png
from common.codecs.state import SharedState
from common.config.section import Section, Sections
from common.errors import BadGeometry, ImplausibleDelta, TruncatedPayload
from common.theta import ONE

__all__ = ["Fuse8", "Fuse16", "Fuse32", "FuseCodec", "FuseSection", "check_fingerprints", "check_matches"]

_GEOMETRY = struct.Struct("<QBI")
_THRESHOLD = struct.Struct("<H")
_CANDIDATES = 0x80
_MOST_DROPPED = 100


class FuseSection(Section):
    """Of the codecs that are filters."""

    title: ClassVar[str] = "Codecs `fuse8`, `fuse16`, `fuse32`"
    under: ClassVar[str] = "codec"

    fuse_candidates: bool = Field(
        True,
        description="`fuse` codecs: test only positions as near to theta as the furthest flip; false is the paper.",
    )


class _Front(NamedTuple):
    """What stands before the PNG, checked."""

    seed: int
    segment_length: int
    segment_count: int
    threshold: int | None
    fingerprints: int
    """Their number."""
    size: int
    """Bytes before the PNG."""


class FuseCodec(DeltaCodec):
    """Binary fuse filter of the selected delta, as a PNG.

    Parameters
    ----------
    keep, gain, left_out
        Of every delta codec.
    candidates
        Send a threshold, so that the receiver tests fewer positions; False is the paper. The payload says which: a
        decoder reads both.
    """

    bits: ClassVar[int]
    newest_version: ClassVar[int] = 2
    sections: ClassVar[tuple[type[Section], ...]] = (DeltaSection, FuseSection)

    def __init__(self, keep: float = 1.0, gain: float = 1.0, left_out: float = 0.0, candidates: bool = True) -> None:
        super().__init__(keep, gain, left_out)
        self.candidates = candidates

    @classmethod
    def from_config(cls, run: Sections, client: Client) -> Self:
        """With this round's kappa."""
        return cls(**delta_options(run, client), candidates=run[FuseSection].fuse_candidates)

    def version(self, n: int) -> int:
        """Version 2 has smaller filters of many keys. They are read as ever, but are other bytes, with other mistakes,
        than version 1 has for the same delta.
        """
        return 2 if n >= TIGHT_KEYS else 1

    def selected_delta(self, theta_local: NDArray[np.float32], shared: SharedState) -> NDArray[np.int64]:
        """Positions to send, int64, ascending.

        With candidates, without the few furthest ones whose loss saves more mistakes than it makes: the threshold that
        excludes them has the fewest wrong positions in all, left out or flipped by mistake. At most one flip in a
        hundred goes, so that large moves still arrive. In real rounds with 8 bits about 2 flips in 1,000 are left out,
        and a tenth of all mistakes with them.
        """
        positions = super().selected_delta(theta_local, shared)
        # Below one expected mistake there is nothing to save.
        if not self.candidates or len(positions) < _MOST_DROPPED or shared.d >> self.bits == 0:
            return positions
        far = distances(shared.uniforms[positions], shared.theta[positions])
        everything = distance_histogram(shared.uniforms, shared.theta)
        flips = np.cumsum(np.bincount(far, minlength=len(everything)))
        dropped = len(positions) - flips
        wrong = (
            (dropped << self.bits) + np.cumsum(everything) - flips
        )  # expected, times 2^bits: integers, so that ties are equal everywhere
        wrong[dropped > len(positions) // _MOST_DROPPED] = np.iinfo(np.int64).max
        kept: NDArray[np.int64] = positions[far <= int(np.argmin(wrong))]
        return kept

    def encode_positions(self, positions: NDArray[np.int64], shared: SharedState) -> bytes:
        """Encode ascending positions."""
        if len(positions) == 0:
            return b""
        fuse = build_filter(positions.astype(np.uint64), self.bits)
        log2_length, threshold = fuse.segment_length.bit_length() - 1, b""
        if self.candidates:
            log2_length |= _CANDIDATES
            threshold = _THRESHOLD.pack(int(distances(shared.uniforms[positions], shared.theta[positions]).max()))
        return (
            _GEOMETRY.pack(fuse.seed, log2_length, fuse.segment_count)
            + threshold
            + pack_png(fuse.fingerprints.view(np.uint8))
        )

    def _change_body(self, n: int, body: bytes, shared: SharedState) -> NDArray[np.int32]:
        """The flips read, less what the filter's mistakes add on average.

        A position tested is flipped by mistake with probability 2^-bits: downwards where u lies below theta, upwards
        where it does not. The two ranges of u that are tested differ in length, so mistakes do not cancel; what they
        add on average follows from theta and the threshold.
        """
        change = super()._change_body(n, body, shared)
        if n:
            threshold = self._read_front(n, body).threshold
            change -= _mistakes(threshold, self.bits)[shared.theta]
        return change

    def decode_flips(self, n: int, body: bytes, shared: SharedState) -> NDArray[np.bool_]:
        """Return the flips, bool ``(d,)``; raise PayloadError on anything odd."""
        if n == 0:
            _check_no_body(body)
            return np.zeros(shared.d, dtype=np.bool_)
        fuse, threshold = self._read(n, body)
        if threshold is None:
            flips, tested = fuse.contains_range(shared.d), shared.d
        else:
            flips, tested = fuse.contains_candidates(shared.uniforms, shared.theta, threshold)
        check_matches(n, int(np.count_nonzero(flips)), tested, 2.0**-self.bits)
        return flips

    def bound(self, theta_local: NDArray[np.float32], shared: SharedState) -> Bound | None:
        """log2(1 / rate of mistakes) bits a flip: no filter of any kind takes less among very many positions."""
        flips = len(self.selected_delta(theta_local, shared))
        return Bound(f"{self.bits} bits a flip", float(self.bits * flips))

    def describe(self, n: int, body: bytes) -> Body:
        """Explain a body: the filter's geometry, the threshold, the picture's size."""
        if n == 0:
            _check_no_body(body)
            return Body({}, {})
        front, png = self._read_front(n, body), self.read_png(n, body)
        height, width = image_shape(front.fingerprints * self.bits // 8)
        fields: dict[str, str | int] = {
            "filter seed": f"{front.seed:016x}",
            "segments": f"{front.segment_count + 2:,} of {front.segment_length:,} fingerprints",
            "fingerprints": f"{front.fingerprints:,} of {self.bits} bits, {front.fingerprints / n:.3f} a flip",
            "threshold": "none: every position is tested"
            if front.threshold is None
            else f"{front.threshold:,}: odds up to 2^{front.threshold / UNIT:.2f} apart are tested",
            "PNG": f"{width:,} x {height:,} pixels, 8-bit grayscale",
        }
        parts = {"geometry": _GEOMETRY.size, "threshold": front.size - _GEOMETRY.size, "PNG": len(png)}
        return Body(fields, {part: size for part, size in parts.items() if size})

    def read_png(self, n: int, body: bytes) -> bytes:
        """The PNG in a body of ``n`` flips, as it is; empty if there are none. Raises PayloadError."""
        if n == 0:
            return b""
        front = self._read_front(n, body)
        png = body[front.size :]
        check_png(png, front.fingerprints * self.bits // 8)
        return png

    def read_filter(self, n: int, body: bytes) -> BinaryFuseFilter:
        """Rebuild the filter of ``n`` keys from a body; raises PayloadError."""
        return self._read(n, body)[0]

    def _read(self, n: int, body: bytes) -> tuple[BinaryFuseFilter, int | None]:
        """The filter, and the threshold if there is one."""
        front = self._read_front(n, body)
        data = unpack_png(body[front.size :], front.fingerprints * self.bits // 8)
        fingerprints = data.view(f"<u{self.bits // 8}")
        check_fingerprints(n, int(np.count_nonzero(fingerprints)), self.bits)
        return BinaryFuseFilter(front.seed, front.segment_length, front.segment_count, fingerprints), front.threshold

    def _read_front(self, n: int, body: bytes) -> _Front:
        if len(body) < _GEOMETRY.size + _THRESHOLD.size:
            raise TruncatedPayload(
                f"{len(body)} bytes of filter; its geometry alone has up to {_GEOMETRY.size + _THRESHOLD.size}"
            )
        seed, log2_length, segment_count = _GEOMETRY.unpack_from(body)
        size, threshold = _GEOMETRY.size, None
        if log2_length & _CANDIDATES:
            (threshold,) = _THRESHOLD.unpack_from(body, size)
            size += _THRESHOLD.size
        length = 1 << min(log2_length & ~_CANDIDATES, 63)
        fingerprints = check_geometry(n, length, segment_count)
        # Fingerprints are random and do not compress, so a shorter image cannot hold n of them: it is refused before
        # memory is taken for the filter.
        if 8 * (len(body) - size) < n * self.bits:
            raise ImplausibleDelta(f"an image of {len(body) - size} bytes for {n} fingerprints of {self.bits} bits")
        return _Front(seed, length, segment_count, threshold, fingerprints, size)


def _mistakes(threshold: int | None, bits: int) -> NDArray[np.int32]:
    """What a filter's mistakes add to theta on average, in 1/65536, for each theta of the grid, int32 ``(65536,)``."""
    theta = np.arange(ONE, dtype=np.int64)
    if threshold is None:
        low, end = np.zeros(ONE, np.int64), np.full(ONE, ONE, np.int64)
    else:
        low, end = (bound.astype(np.int64) for bound in uniform_bounds(threshold))
    upwards = (end - theta) - (theta - low)
    return np.rint(upwards / (1 << bits)).astype(np.int32)


def _check_no_body(body: bytes) -> None:
    if body:
        raise BadGeometry("a filter for an empty delta")


def check_fingerprints(n: int, filled: int, bits: int) -> None:
    """Refuse an array in which not about n fingerprints are set.

    Building a filter sets one for each key, each of them 0 by chance with probability 2^-bits, and leaves the others 0.
    So a constant array, which would match one position in 2^bits without holding a key, is no filter.

    Raises
    ------
    ImplausibleDelta
        If more than n are set, or fewer by six standard deviations.
    """
    zeros = n * 2.0**-bits
    if not n - zeros - 6 * math.sqrt(zeros) - 10 <= filled <= n:
        raise ImplausibleDelta(f"{filled} fingerprints are set; {n} keys set one each")


def check_matches(n: int, matches: int, tested: int, rate: float) -> None:
    """Refuse a filter that matches more or fewer positions than n keys explain.

    It matches its n keys and a binomial number of the other positions that were tested: six standard deviations more,
    or one fewer, is not a filter of n keys.

    Raises
    ------
    ImplausibleDelta
        Then.
    """
    mean = max(0, tested - n) * rate
    if not n <= matches <= n + mean + 6 * math.sqrt(mean) + 10:
        raise ImplausibleDelta(f"the filter says {n} keys and matches {matches} of {tested} positions tested")


class Fuse8(FuseCodec):
    """8-bit fingerprints: about 9 bits a flip, and one tested position in 256 flipped by mistake."""

    name = "fuse8"
    number = 1
    bits = 8


class Fuse16(FuseCodec):
    """16-bit fingerprints: about 18 bits a flip, and one tested position in 65,536 flipped by mistake."""

    name = "fuse16"
    number = 2
    bits = 16


class Fuse32(FuseCodec):
    """32-bit fingerprints: about 36 bits a flip, and hardly ever a mistake."""

    name = "fuse32"
    number = 3
    bits = 32
