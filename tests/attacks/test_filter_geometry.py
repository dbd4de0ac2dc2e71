"""The attacker sends a binary fuse filter whose sizes lie, or one that matches what it holds no key for.

Sizes are bounded by n, and n by d, before anything is allocated. A filter must match at least its n keys and at most a
few positions by mistake; and it must have about as many fingerprints set as it has keys, which no constant array has.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest

from common.codecs.binary_fuse import MAX_FINGERPRINTS, build_filter, check_geometry
from common.codecs.fuse import check_fingerprints
from common.codecs.png import pack_png
from common.errors import BadGeometry, ImplausibleDelta
from tests.attacks.targets import refused, target

every_filter = pytest.mark.parametrize("name", ["fuse8", "fuse8-all", "fuse16", "fuse32"])


def body(fingerprints: np.ndarray, length: int, count: int, threshold: int | None = None, seed: int = 1) -> bytes:
    log2_length = length.bit_length() - 1
    front = struct.pack("<QBI", seed, log2_length | (0 if threshold is None else 128), count)
    return front + (b"" if threshold is None else struct.pack("<H", threshold)) + pack_png(fingerprints.view(np.uint8))


@pytest.mark.parametrize(
    ("n", "length", "count"),
    [
        (100, 3, 10),
        (100, 0, 10),
        (100, 2**19, 1),
        (100, 64, 0),
        (100, 262_144, 2**32 - 1),
        (2, 256, 1000),
        (100, 4, 1),  # fewer slots than keys
        (2**32 - 1, 2**18, 2**16),  # slots that do not fit 32 bits
        (2**32 - 1, 2**18, 2**32 - 1),
    ],
)
def test_impossible_geometry_is_refused(n: int, length: int, count: int) -> None:
    with pytest.raises(BadGeometry):
        check_geometry(n, length, count)


def test_the_largest_geometry_fits_the_arithmetic_of_the_slots() -> None:
    length = 2**18
    assert check_geometry(MAX_FINGERPRINTS // 2, length, 2**14 - 3) <= MAX_FINGERPRINTS


@every_filter
@pytest.mark.parametrize("log2_length", [0, 18, 19, 63, 64, 127])
@pytest.mark.parametrize("count", [0, 1, 2**16, 2**31, 2**32 - 1])
def test_sizes_at_their_extremes(name: str, log2_length: int, count: int) -> None:
    attack = target(name)
    for flag in (0, 128):
        lying = struct.pack("<QBI", 2**64 - 1, log2_length | flag, count) + attack.body[13:]
        for n in (attack.n, 1, attack.shared.d):
            assert refused(attack, attack.repack(lying, n))


@every_filter
@pytest.mark.parametrize("value", [0, 1, 0x55, 0xFF])
@pytest.mark.parametrize("threshold", [None, 0, 65_535])
def test_a_constant_filter_is_dropped(name: str, value: int, threshold: int | None) -> None:
    """It matches one position in 2^bits, whatever those are, for a few bytes of image."""
    attack = target(name, d=200_000)
    bits = {"fuse8": 8, "fuse16": 16, "fuse32": 32}[attack.codec.name]
    fingerprints = np.full(16 * 128 * bits // 8, value, np.uint8)
    for n in (20, 100, 300, 700, 781, 2000):
        assert refused(attack, attack.repack(body(fingerprints, 128, 14, threshold), n)), f"with {n} keys"
    # With room for 12 keys it may pass as the filter of a few; it then makes no more mistakes than one of those.
    refused(attack, attack.repack(body(fingerprints[: 12 * bits // 8], 4, 1, threshold), 3))


@every_filter
def test_a_filter_of_everything_under_a_smaller_number_is_dropped(name: str) -> None:
    attack = target(name, d=100_000)
    everything = attack.codec.encode(np.where(attack.shared.mask(), 0, 1).astype(np.float32), attack.shared)
    assert not refused(attack, everything), "it is allowed to say that everything changed"
    for n in (10, 20_000, 99_000):
        assert refused(attack, attack.repack(everything[34:], n))


def test_a_filter_is_judged_by_the_positions_it_is_tested_on() -> None:
    """Where a threshold leaves a tenth of the positions, matching as much as a filter of all would is too much; and
    where it leaves too few, the keys themselves are missing.
    """
    attack = target("fuse8")
    assert attack.body[8] & 128
    for threshold in (0, 16, 65_535):
        changed = attack.body[:13] + struct.pack("<H", threshold) + attack.body[15:]
        if threshold < 65_535:
            with pytest.raises(ImplausibleDelta):
                attack.codec.decode(attack.repack(changed), attack.shared)
        else:
            assert not refused(attack, attack.repack(changed))  # wider than needed: as the paper's, no worse


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("n", [1, 2, 3, 17, 200, 11_505, 100_000])
def test_honest_filters_have_as_many_fingerprints_as_keys(n: int, bits: int) -> None:
    for seed in range(20 if n < 1000 else 2):
        keys = np.sort(np.random.default_rng(seed).choice(50 * n, n, replace=False)).astype(np.uint64)
        fuse = build_filter(keys, bits)
        check_fingerprints(n, int(np.count_nonzero(fuse.fingerprints)), bits)
        assert 8 * len(pack_png(fuse.fingerprints.view(np.uint8))) >= n * bits


def test_too_many_or_too_few_fingerprints_are_refused() -> None:
    for filled in (10_001, 9_900, 0):
        with pytest.raises(ImplausibleDelta):
            check_fingerprints(10_000, filled, 8)
