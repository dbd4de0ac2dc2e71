from __future__ import annotations

import math

import numpy as np
import pytest

from common.selection import bernoulli_kl, cosine, largest_changes, select_top
from common.theta import ONE, quantise


def test_kl_against_the_definition_and_at_the_ends() -> None:
    p, q = 0.3, 0.8
    expected = p * math.log2(p / q) + (1 - p) * math.log2((1 - p) / (1 - q))
    assert bernoulli_kl(np.array([p]), np.array([q]))[0] == pytest.approx(expected)
    assert bernoulli_kl(np.array([0.0, 1.0, 0.5]), np.full(3, 0.5)).tolist() == [1.0, 1.0, 0.0]


def test_the_furthest_moved_positions_are_kept_and_ties_go_to_the_lower() -> None:
    theta = quantise(np.full(6, 0.9))
    local = np.array([0.5, 0.9, 0.1, 0.5, 0.89, 0.5], np.float32)
    positions = np.array([0, 2, 3, 4, 5])
    assert select_top(positions, local, theta, 0.2).tolist() == [2]
    assert select_top(positions, local, theta, 0.6).tolist() == [0, 2, 3]
    assert select_top(positions, local, theta, 1.0) is positions
    assert select_top(positions[:0], local, theta, 0.5).tolist() == []


def test_kappa_falls_along_a_cosine() -> None:
    values = [cosine(0.8, 0.4, r, 5) for r in range(1, 6)]
    assert values[0] == pytest.approx(0.8)
    assert values[2] == pytest.approx(0.6)
    assert values[-1] == pytest.approx(0.4)
    assert values == sorted(values, reverse=True)
    assert cosine(0.8, 0.4, 1, 1) == 0.8


@pytest.mark.parametrize("left_out", [0.0, 0.1, 0.5, 0.9])
def test_the_smallest_changes_are_taken_back(left_out: float) -> None:
    rng = np.random.default_rng(4)
    theta = quantise(rng.uniform(0.1, 0.9, 5000))
    before = (theta / np.float32(ONE)).astype(np.float32)
    local = np.clip(before + 0.03 * rng.standard_t(3, 5000).astype(np.float32), 0, 1).astype(np.float32)
    kept = largest_changes(local, theta, left_out)
    square = (local - before).astype(np.float64) ** 2
    stays = kept == before
    assert np.array_equal(kept[~stays], local[~stays])
    assert square[stays].sum() <= (left_out + 1e-3) * square.sum()
    assert square[stays].sum() >= (left_out - 5e-3) * square.sum()
    if left_out:
        assert square[stays].max() <= square[~stays].min() + 1e-5


def test_where_nothing_has_changed_nothing_is_taken_back() -> None:
    theta = quantise(np.linspace(0.1, 0.9, 100))
    same = (theta / np.float32(ONE)).astype(np.float32)
    assert np.array_equal(largest_changes(same, theta, 0.1), same)
