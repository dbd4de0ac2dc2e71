from __future__ import annotations

import numba
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from common.splitmix import GOLDEN, mix, words
from common.splitmix_torch import signed, words_torch

MASK = (1 << 64) - 1
WORD = st.integers(0, MASK)


def scalar_word(key: int, number: int) -> int:
    """Written out in Python integers."""
    z = (key + (number + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@numba.njit
def compiled(key, number):
    return mix(key + (number + np.uint64(1)) * GOLDEN)


@given(WORD, st.integers(0, 2**40), st.integers(0, 9))
def test_numpy_compiled_loops_and_torch_equal_the_scalar_definition(key: int, first: int, count: int) -> None:
    expected = [scalar_word(key, number) for number in range(first, first + count)]
    assert words(key, first, count).tolist() == expected
    assert [int(compiled(np.uint64(key), np.uint64(number))) for number in range(first, first + count)] == expected
    with np.errstate(over="ignore"):
        counters = np.uint64(key) + np.arange(first + 1, first + count + 1, dtype=np.uint64) * GOLDEN
    assert mix(counters).tolist() == expected
    assert words_torch(key, first, count).tolist() == [signed(word) for word in expected]


def test_published_outputs() -> None:
    # Of the reference implementation (prng.di.unimi.it/splitmix64.c) for the seed 1234567.
    assert words(1234567, 0, 3).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]
