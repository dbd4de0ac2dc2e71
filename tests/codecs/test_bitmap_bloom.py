from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.codecs import SharedState, get_codec
from common.codecs.bloom import Bloom
from common.wire import HEADER_BYTES
from tests.codecs.cases import (
    any_case,
    delta,
    kinds,
    plain_entropy_bits,
    realistic,
    seeds,
    sent,
    sizes,
)

BITMAP, BLOOM = get_codec("bitmap"), get_codec("bloom")


@settings(max_examples=50)
@given(sizes, seeds, kinds, st.sampled_from([1.0, 0.3]))
def test_any_mask_comes_back_whole(d: int, seed: int, kind: str, keep: float) -> None:
    shared, local = any_case(d, seed, kind)
    payload = get_codec("bitmap", keep=keep).encode(local, shared)  # kappa does not apply
    again = SharedState(shared.theta.copy(), shared.seed, shared.round, shared.slot, shared.segments)
    assert payload == BITMAP.encode(local.copy(), again)
    mask = shared.local_mask(local)
    assert np.array_equal(BITMAP.decode(payload, again), mask)
    assert sent(payload) == mask.sum()
    assert 8 * (len(payload) - HEADER_BYTES) <= 1.01 * plain_entropy_bits(int(mask.sum()), d) + 8 * 32


def test_bitmap_costs_the_entropy_of_each_layer() -> None:
    shared, _ = realistic("first", 200_000)
    shared = SharedState(shared.theta, 1, 1, 0, segments=(50_000, 0, 150_000))
    local = np.concatenate([np.full(50_000, 0.02), np.full(150_000, 0.5)]).astype(np.float32)
    mask = shared.local_mask(local)
    layers = [plain_entropy_bits(int(part.sum()), len(part)) for part in (mask[:50_000], mask[50_000:])]
    assert 8 * len(BITMAP.encode(local, shared)) <= 1.001 * sum(layers) + 8 * 64


@settings(max_examples=50)
@given(sizes, seeds, kinds, st.sampled_from([1.0, 0.8]), st.integers(1, 32))
def test_a_bloom_filter_loses_no_flip(d: int, seed: int, kind: str, keep: float, hashes: int) -> None:
    shared, local = any_case(d, seed, kind)
    codec = Bloom(keep, hashes=hashes)
    payload = codec.encode(local, shared)
    assert payload == Bloom(keep, hashes=hashes).encode(local.copy(), shared)
    flips = BLOOM.decode(payload, shared) != shared.mask()
    positions = delta(local, shared, keep)
    assert flips[positions].all()
    assert sent(payload) == len(positions)
    if not len(positions):
        assert not flips.any()
        assert len(payload) == HEADER_BYTES


@pytest.mark.parametrize("hashes", [4, 8])
def test_bloom_has_the_rate_and_the_size_of_the_textbook(hashes: int) -> None:
    shared, local = realistic("later", 1_000_000)
    payload = Bloom(hashes=hashes).encode(local, shared)
    n = sent(payload)
    assert 8 * (len(payload) - HEADER_BYTES) == pytest.approx(n * hashes / np.log(2), abs=32)
    wrong, mean = int((BLOOM.decode(payload, shared) != shared.local_mask(local)).sum()), (shared.d - n) * 2.0**-hashes
    assert abs(wrong - mean) <= 5 * np.sqrt(mean) + 0.05 * mean


def test_bloom_refuses_impossible_options() -> None:
    for hashes in (0, 33):
        with pytest.raises(ValueError, match="hashes"):
            Bloom(hashes=hashes)


def test_small_bloom_filters_of_honest_clients_are_read() -> None:
    theta = np.full(400_000, 60_000, np.uint16)
    for slot in range(40):
        shared = SharedState(theta, seed=5, round=1, slot=slot)
        local = (theta / 65_536).astype(np.float32)
        local[:: 400_000 // (2 + slot)] = 0.01
        payload = get_codec("bloom").encode(local, shared)
        wanted = shared.local_mask(local) != shared.mask()
        assert ((get_codec("bloom").decode(payload, shared) != shared.mask()) | ~wanted).all()
