"""Sizes of filters: the tight rule, what is built by it, and filters of the older rule, which stay readable."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyfusefilter._xorfilter import ffi, lib

from common.codecs import fuse_build as build
from common.codecs import get_codec
from common.codecs.binary_fuse import build_filter, check_geometry
from common.codecs.fuse_geometry import MAX_SEGMENT_LENGTH, TIGHT_KEYS, reference_geometry, tight_geometry
from common.codecs.png import pack_png
from common.errors import WrongFormat
from common.wire import HEADER_BYTES, Header, pack_payload
from tests.codecs.cases import sent
from tests.conftest import local_step, shared_state

LARGE = 1_000_000
"""Positions of a state whose delta below has more than TIGHT_KEYS flips."""


def keys(n: int, seed: int = 0) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).choice(8 * n, n, replace=False)).astype(np.uint64)


def large_case() -> tuple:
    shared = shared_state(LARGE)
    return shared, local_step(shared.theta, seed=3, size=3.0, moved=0.9)


@given(st.integers(TIGHT_KEYS, 3_775_000_000))  # beyond, slots do not fit into 32 bits, and are refused
def test_at_most_9_1_bits_a_key_and_accepted(n: int) -> None:
    length, count = tight_geometry(n)
    slots = check_geometry(n, length, count)
    assert isinstance(length, int)
    assert isinstance(count, int)
    assert 9.0 * n < 8 * slots <= 9.1 * n
    assert length <= MAX_SEGMENT_LENGTH
    longer, _ = tight_geometry(n + 1)
    assert longer in (length, 2 * length)
    assert 96 * length <= n


def test_more_keys_never_have_fewer_slots_but_where_segments_double() -> None:
    before = tight_geometry(TIGHT_KEYS)
    for n in range(TIGHT_KEYS + 1, 500_000, 37):
        length, count = tight_geometry(n)
        assert length >= before[0]
        if length == before[0]:
            assert count >= before[1]
        else:  # rounding down to whole segments, now twice as long
            assert (count + 2) * length >= (before[1] + 2) * before[0] - length
        before = length, count


@pytest.mark.parametrize("n", [20, 1_000, 11_505, 98_303, 300_000, 3_000_000])
def test_the_reference_rule_is_that_of_the_compiled_core(n: int) -> None:
    core = ffi.gc(ffi.new("binary_fuse8_t *"), lib.binary_fuse8_free)
    assert lib.binary_fuse8_allocate(n, core)
    assert reference_geometry(n) == (core.SegmentLength, core.SegmentCount)


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("n", [TIGHT_KEYS, 100_000, 105_000, 140_001, 196_607, 354_000])
def test_every_key_is_found_in_a_tight_filter(n: int, bits: int) -> None:
    members = keys(n)
    fuse = build_filter(members, bits)
    assert (fuse.segment_length, fuse.segment_count) == tight_geometry(n)
    assert 8 * len(fuse.fingerprints) <= 9.1 * n
    matches = fuse.contains_range(8 * n)
    assert matches[members.astype(np.int64)].all(), "a false negative"
    mean = 7 * n / 2**bits
    assert matches.sum() - n <= mean + 6 * np.sqrt(mean) + 1
    raw = fuse.fingerprints.view(np.uint8)
    assert len(pack_png(raw)) <= len(raw) + 100


@settings(max_examples=10)
@given(st.integers(TIGHT_KEYS, 130_000), st.integers(0, 2**32))
def test_any_keys_are_found(n: int, seed: int) -> None:
    members = keys(n, seed)
    fuse = build_filter(members, 8)
    assert (fuse.segment_length, fuse.segment_count) == tight_geometry(n)
    assert fuse.contains_range(8 * n)[members.astype(np.int64)].all()


def test_below_the_limit_the_core_builds_as_before() -> None:
    fuse = build_filter(keys(TIGHT_KEYS - 1), 8)
    assert (fuse.segment_length, fuse.segment_count) == reference_geometry(TIGHT_KEYS - 1)


def test_keys_set_aside_are_solved_for() -> None:
    members = keys(TIGHT_KEYS)
    length, count = tight_geometry(TIGHT_KEYS)
    seed, found_length, found_count, fingerprints = build.build_fingerprints(members, 16)
    assert (found_length, found_count) == (length, count)
    assert build.try_seed(members, 16, seed, length, count, 0) is None, "peeling alone would have done"
    assert build.try_seed(members, 16, seed, length, count, 1) is None, "one key aside would have done"
    again = build.try_seed(members, 16, seed, length, count, 256)
    assert again is not None
    assert np.array_equal(again, fingerprints)


@pytest.mark.parametrize(("bits", "checksum"), [(8, 3_367_112_177), (16, 781_993_519), (32, 1_286_874_899)])
def test_known_answers(bits: int, checksum: int) -> None:
    fuse = build_filter(np.arange(0, 300_000, 3, dtype=np.uint64), bits)
    assert (fuse.segment_length, fuse.segment_count) == (1024, 109)
    assert zlib.crc32(fuse.fingerprints.tobytes()) == checksum


def test_keys_that_repeat_work_with_no_seed() -> None:
    for copies in (2, 3, 258):  # 256 of one key look like none to a counter of 8 bits
        members = keys(TIGHT_KEYS)
        members[1:copies] = members[0]
        for seed in range(5):
            assert build.try_seed(members, 8, seed, *tight_geometry(TIGHT_KEYS), 256) is None


@pytest.mark.parametrize("name", ["fuse8", "fuse16"])
def test_large_filters_of_version_1_decode(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, local = large_case()
    codec = get_codec(name)
    now = codec.encode(local, shared)
    monkeypatch.setattr("common.codecs.binary_fuse.TIGHT_KEYS", LARGE)  # as the encoder of version 1 was
    monkeypatch.setattr("common.codecs.fuse.TIGHT_KEYS", LARGE)
    then = codec.encode(local, shared)
    monkeypatch.undo()
    assert sent(now) == sent(then) >= TIGHT_KEYS
    assert (then[2], now[2]) == (1, 2)
    assert len(now) < len(then)
    positions = codec.selected_delta(local, shared)
    for payload in (then, now):
        flips = codec.decode(payload, shared) != shared.mask()
        assert flips[positions].all()
        body = payload[HEADER_BYTES:]
        other = Header(codec.number, shared.round, shared.slot, shared.d, sent(payload), shared.digest, version=3)
        with pytest.raises(WrongFormat):
            codec.decode(pack_payload(other, body), shared)


def test_only_filters_have_a_version_2() -> None:
    shared = shared_state(2_000)
    codec = get_codec("exact")
    payload = codec.encode(local_step(shared.theta, seed=1), shared)
    header = Header(codec.number, shared.round, shared.slot, shared.d, sent(payload), shared.digest, version=2)
    with pytest.raises(WrongFormat):
        codec.decode(pack_payload(header, payload[HEADER_BYTES:]), shared)
