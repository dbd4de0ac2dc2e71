from __future__ import annotations

import numpy as np
import pytest
from pyfusefilter._xorfilter import ffi, lib

from common.codecs.binary_fuse import BinaryFuseFilter, build_filter, check_geometry

D = 983_040  # masked weights of the embedded backbone


def keys(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).choice(d, n, replace=False)).astype(np.uint64)


def core_contains(fuse: BinaryFuseFilter, positions: np.ndarray) -> np.ndarray:
    """Ask pyfusefilter's compiled core, one key a call."""
    name = f"binary_fuse{fuse.bits}"
    core = ffi.new(f"{name}_t *")
    core.Seed, core.SegmentLength, core.SegmentLengthMask = fuse.seed, fuse.segment_length, fuse.segment_length - 1
    core.SegmentCount, core.SegmentCountLength = fuse.segment_count, fuse.segment_count * fuse.segment_length
    core.ArrayLength = len(fuse.fingerprints)
    fingerprints = ffi.from_buffer(f"uint{fuse.bits}_t[]", fuse.fingerprints)
    core.Fingerprints = fingerprints
    contain = getattr(lib, f"{name}_contain")
    return np.array([contain(int(position), core) for position in positions], dtype=bool)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("n", [0, 1, 2, 3, *range(11_480, 11_531, 10), 11_505, 100_000])
def test_membership_is_bit_identical_to_the_compiled_core(n: int, bits: int) -> None:
    d = max(20_000, 2 * n)
    members = keys(n, d)
    fuse = build_filter(members, bits)
    ours = fuse.contains_range(d)
    sample = np.unique(np.concatenate([members[:2000].astype(np.int64), np.arange(0, d, max(1, d // 20_000))]))
    assert np.array_equal(ours[sample], core_contains(fuse, sample))
    assert ours[members.astype(np.int64)].all(), "a false negative"


@pytest.mark.parametrize("bits", [8, 16])
def test_every_position_of_a_whole_model_agrees_with_the_core(bits: int) -> None:
    fuse = build_filter(np.arange(D, dtype=np.uint64), bits)  # a delta of everything
    assert fuse.contains_range(D).all()
    sparse = build_filter(keys(9_830, D), bits)
    positions = np.arange(0, D, 7)
    assert np.array_equal(sparse.contains_range(D)[positions], core_contains(sparse, positions))


@pytest.mark.parametrize("bits", [8, 16])
def test_false_positives_are_binomial(bits: int) -> None:
    members = keys(50_000, 4_000_000)
    flips = build_filter(members, bits).contains_range(4_000_000)
    wrong, others = int(flips.sum()) - len(members), 4_000_000 - len(members)
    mean = others / 2**bits
    assert abs(wrong - mean) <= 5 * np.sqrt(mean) + 1


def test_ranges_do_not_depend_on_how_they_are_cut() -> None:
    fuse = build_filter(keys(5_000, 3_000_000), 8)
    whole = fuse.contains_range(3_000_000)  # several chunks
    assert np.array_equal(whole[:100_000], fuse.contains_range(100_000))  # one chunk
    assert fuse.contains_range(0).shape == (0,)


def test_build_does_not_reorder_its_input() -> None:
    members = keys(1_000, 10_000)[::-1].copy()
    before = members.copy()
    build_filter(members, 8)
    assert np.array_equal(members, before)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100, 11_505, 300_000])
def test_honest_geometry_passes(n: int) -> None:
    fuse = build_filter(keys(n, 10 * n + 10), 8)
    assert check_geometry(n, fuse.segment_length, fuse.segment_count) == len(fuse.fingerprints)
