from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.codecs import get_codec
from common.codecs.binary_fuse import build_filter, check_geometry
from common.errors import EncodeError
from tests.codecs.cases import any_case, delta, kinds, realistic, seeds, sent, sizes


def keys(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).choice(d, n, replace=False)).astype(np.uint64)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 100, 1_000, *range(11_480, 11_531, 10), 100_000])
def test_every_key_matches_and_no_other(n: int) -> None:
    d = max(20_000, 20 * n)
    members = keys(n, d)
    fuse = build_filter(members, 32)
    assert fuse.bits == 32
    assert fuse.fingerprints.dtype == np.uint32
    matches = np.flatnonzero(fuse.contains_range(d))
    assert np.array_equal(matches, members)  # 2^-32: not one by mistake among these
    if n:
        assert check_geometry(n, fuse.segment_length, fuse.segment_count) == len(fuse.fingerprints)


@pytest.mark.parametrize("n", [20, 100, 1_000, 20_000, 300_000])
def test_the_geometry_is_that_of_the_compiled_core(n: int) -> None:
    members = keys(n, 20 * n)
    ours, core = build_filter(members, 32), build_filter(members, 16)
    assert (ours.segment_length, ours.segment_count) == (core.segment_length, core.segment_count)


def test_equal_keys_in_any_order_give_equal_fingerprints_size_and_seed() -> None:
    members = keys(5_000, 100_000)
    first, again = build_filter(members, 32), build_filter(members.copy(), 32)
    assert first.fingerprints.tobytes() == again.fingerprints.tobytes()
    # A known answer: seeds, hashes and the order of peeling are part of what makes equal input equal bytes.
    fuse = build_filter(np.arange(0, 3000, 3, dtype=np.uint64), 32)
    assert (fuse.segment_length, fuse.segment_count) == (128, 9)
    assert zlib.crc32(fuse.fingerprints.astype("<u4").tobytes()) == 2_783_130_094


def test_keys_that_repeat_are_refused() -> None:
    with pytest.raises(EncodeError, match="distinct"):
        build_filter(np.array([5, 5, 9], dtype=np.uint64), 32)


@settings(max_examples=40)
@given(sizes, seeds, kinds, st.booleans())
def test_any_delta_arrives_without_a_mistake(d: int, seed: int, kind: str, candidates: bool) -> None:
    shared, local = any_case(d, seed, kind)
    codec = get_codec("fuse32", candidates=candidates)
    payload = codec.encode(local, shared)
    assert np.array_equal(codec.decode(payload, shared), shared.local_mask(local))


def test_bits_a_key() -> None:
    shared, local = realistic("later", 2_000_000)
    payload = get_codec("fuse32", keep=0.8).encode(local, shared)
    assert sent(payload) == len(delta(local, shared, 0.8)) > 8_000
    assert 8 * len(payload) / sent(payload) < 40
