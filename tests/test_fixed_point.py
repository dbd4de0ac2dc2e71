from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadMetric
from deltamask_server.fixed_point import FixedPointMean

VALUES = st.floats(-256, 256, width=32)
TIES = np.arange(-9, 10, dtype=np.float32) * np.float32(2**-27)
"""Odd multiples of half a step."""


class Reference:
    """The same sums as NumPy makes them, with a copy for every operation."""

    def __init__(self, count: int) -> None:
        self.sum, self.examples = np.zeros(count, np.int64), np.zeros(count, np.int64)

    def add(self, values: np.ndarray, examples: int, kept: np.ndarray) -> None:
        self.sum[kept] += np.rint(values.astype(np.float64) * 2**26).astype(np.int64) * examples
        self.examples[kept] += examples

    def mean(self, otherwise: np.ndarray) -> np.ndarray:
        mean = otherwise.astype(np.float64)
        np.divide(self.sum, self.examples * 2.0**26, out=mean, where=self.examples > 0)
        return mean.astype(np.float32)


def some_vectors(count: int, replies: int, seed: int, partial: bool):
    """Values, examples and positions kept of several replies."""
    rng = np.random.default_rng(seed)
    for _ in range(replies):
        kept = rng.random(count) < (rng.random() if partial else 2)
        values = rng.choice(np.concatenate([TIES, rng.normal(0, 40, 50).clip(-256, 256)]), kept.sum())
        yield values.astype(np.float32), int(rng.integers(1, 10**6)), kept


def check(count: int, vectors, partial: bool) -> None:
    mean, reference = FixedPointMean(count, partial=partial), Reference(count)
    for values, examples, kept in vectors:
        mean.add(values, examples, kept if partial else None)
        reference.add(values, examples, kept)
    otherwise = np.linspace(-1, 1, count, dtype=np.float32)
    np.testing.assert_array_equal(mean._sum, reference.sum)
    assert mean.mean(otherwise).tobytes() == reference.mean(otherwise).tobytes()


@given(st.integers(0, 3000), st.integers(0, 4), st.integers(0, 2**32), st.booleans())
def test_sums_and_means_are_those_of_numpy(count: int, replies: int, seed: int, partial: bool) -> None:
    check(count, some_vectors(count, replies, seed, partial), partial)


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("count", [1 << 18, 1_000_003])
def test_parts_fit_together(count: int, partial: bool) -> None:
    check(count, some_vectors(count, 2, count, partial), partial)


@given(st.lists(VALUES, min_size=1, max_size=20), st.integers(1, 2**28))
def test_any_value_and_number_of_examples(values: list[float], examples: int) -> None:
    vector = np.array(values, np.float32)
    check(len(vector), [(vector, examples, np.ones(len(vector), bool))], partial=False)


@pytest.mark.parametrize("partial", [False, True])
def test_what_is_refused_changes_nothing(partial: bool) -> None:
    kept = np.array([True, False, True, True])
    mean = FixedPointMean(4, partial=partial)
    mean.add(np.ones(4, np.float32), 3)
    sums, examples = mean._sum.copy(), mean._examples.copy()
    with pytest.raises(BadMetric, match="a client of such a round may have"):
        mean.add(np.ones(4, np.float32), 2**28 + 1)
    bad = [(np.ones(3, np.float32), None), (np.ones((4, 1), np.float32), None), (np.ones(1, np.float32), kept)]
    bad += [(np.ones(3, np.float32), kept[:3]), (np.ones(4, np.float32), kept)]
    bad += [] if partial else [(np.ones(3, np.float32), kept)]
    for values, where in bad:
        with pytest.raises(ValueError):
            mean.add(values, 1, where)
        np.testing.assert_array_equal(mean._sum, sums)
        np.testing.assert_array_equal(mean._examples, examples)
    mean.add(np.ones(4, np.float32), 2**28 - 3)
    np.testing.assert_array_equal(mean.mean(np.zeros(4, np.float32)), np.ones(4))


def test_the_most_examples_of_every_vector_fit_and_none_takes_the_others_room() -> None:
    vectors = 5
    mean = FixedPointMean(2, vectors)
    most = 2**28 // vectors
    with pytest.raises(BadMetric):
        mean.add(np.full(2, 256, np.float32), most + 1)
    for _ in range(vectors):
        mean.add(np.array([256, -256], np.float32), most)
    np.testing.assert_array_equal(mean.mean(np.zeros(2, np.float32)), [256, -256])
