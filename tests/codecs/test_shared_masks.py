from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.codecs import SharedState
from common.codecs.shared_masks import SharedMasks
from common.uniforms import stream_key, uniforms

KEY = st.integers(0, 2**64 - 1)
EDGES = np.array([1, 2, 32_767, 32_768, 65_534, 65_535], np.uint16)


def counted(theta: np.ndarray, keys: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Ones and nearest as NumPy counts them: a vector of uniforms, a mask and a vector of distances for each stream."""
    ones, nearest = np.zeros(len(theta), np.uint16), np.full(len(theta), 65_535, np.uint16)
    for key in keys:
        drawn = uniforms(key, len(theta))
        mask = drawn < theta
        ones += mask
        np.minimum(nearest, np.where(mask, theta - drawn, drawn - theta), out=nearest)
    return ones, nearest


def some_theta(d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(d) < 0.1, rng.choice(EDGES, d), rng.integers(1, 65_536, d)).astype(np.uint16)


def check(masks: SharedMasks, keys: list[int]) -> None:
    ones, nearest = counted(masks.theta, keys)
    assert masks.keys == keys
    assert masks.ones.dtype == masks.nearest.dtype == np.uint16
    np.testing.assert_array_equal(masks.ones, ones)
    np.testing.assert_array_equal(masks.nearest, nearest)


@given(st.one_of(st.integers(0, 20), st.integers(2040, 2060), st.integers(0, 9000)), st.lists(KEY, max_size=5), KEY)
def test_counts_are_those_of_the_masks(d: int, keys: list[int], seed: int) -> None:
    theta = some_theta(d, seed)
    check(SharedMasks.draw(theta, keys), keys)
    one_by_one = SharedMasks(theta)
    for key in keys:
        one_by_one.add(key)
    check(one_by_one, keys)


@pytest.mark.parametrize("d", [(1 << 20) - 1, 1 << 20, 2_211_841, 3_000_003])
def test_parts_of_several_threads_fit_together(d: int) -> None:
    keys = [stream_key(1, 2, slot) for slot in range(3)]
    masks = SharedMasks.draw(some_theta(d, d), keys[:2])
    masks.add(keys[2])
    check(masks, keys)


def test_as_many_slots_as_a_message_can_name() -> None:
    theta = some_theta(2051, 0)
    keys = [stream_key(1, 2, slot) for slot in range(1024)]
    masks = SharedMasks.draw(theta, keys)
    check(masks, keys)
    shared = [SharedState(theta, 1, 2, slot) for slot in range(1024)]
    np.testing.assert_array_equal(masks.ones, sum(state.mask().astype(np.uint16) for state in shared))


def test_more_masks_than_16_bits_count_are_refused() -> None:
    masks = SharedMasks.draw(np.full(3, 65_535, np.uint16), range(65_535))
    before = masks.ones.copy()
    with pytest.raises(ValueError, match="65,536 masks"):
        masks.add(0)
    np.testing.assert_array_equal(masks.ones, before)
    assert len(masks.keys) == 65_535
