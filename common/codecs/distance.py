"""How far a shared uniform lies from theta, in log-odds: what decides whether a position can have flipped.

With common random numbers a bit flips exactly when u lies between theta and theta_local, so a flip proves that training
moved the position's probability past u. A local step moves the *score*, logit(theta), and by a bounded amount (Adam: at
most about the learning rate a step), wherever theta stands. So the fitting measure is ``|logit(u) - logit(theta)|``,
not ``|u - theta|``: in a run whose theta has spread over 0.01 .. 0.99, the flips' largest log-odds distance leaves 11 %
of the positions in question, their largest linear distance 30 % (our choice and measurement; the paper tests every
position).

Both ends must agree on every distance, so the logarithms are integer arithmetic: no library's ``log`` is asked.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from common.codecs.parallel import for_each, split
from common.theta import ONE

__all__ = ["FRACTION", "UNIT", "distance_histogram", "distances", "log2_fixed", "odds_tables", "uniform_bounds"]

FRACTION = 24
"""Fractional bits of `log2_fixed`."""
UNIT = 1 << 10
"""Distance that means a factor of two in odds. The largest possible distance, 34 units, fits 16 bits."""

_LIMIT = 18 * UNIT
"""No log-odds are as far from zero."""


def log2_fixed(x: NDArray[np.integer]) -> NDArray[np.int64]:
    """Binary logarithm, rounded down to 24 fractional bits, by repeated squaring.

    Parameters
    ----------
    x
        Integers from 1 to 2^53.

    Returns
    -------
    int64 array of the same shape, log2(x) * 2^24, exact to about one unit; never decreasing in x.
    """
    # frexp of an integer below 2^53 is exact, and so are the scalings by powers of two: no rounding anywhere.
    exponent = np.frexp(x.astype(np.float64))[1].astype(np.int64) - 1
    mantissa = np.ldexp(x.astype(np.float64), 31 - exponent).astype(np.uint64)  # in [2^31, 2^32)
    result = exponent
    for _ in range(FRACTION):
        mantissa = (mantissa * mantissa) >> np.uint64(31)
        bit = mantissa >> np.uint64(32)
        mantissa >>= bit
        result = 2 * result + bit.astype(np.int64)
    return result


@functools.lru_cache(maxsize=1)
def odds_tables() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Log-odds of every uniform and of every theta, int32 ``(65536,)`` each, in units of 1 / `UNIT` octave.

    ``u < theta`` compares integers, so u stands for the middle of its step, ``(u + 1/2) / 65536``; entry 0 of the
    second table is not a probability and unused.
    """
    values = np.arange(ONE, dtype=np.int64)
    uniform = log2_fixed(2 * values + 1) - log2_fixed(2 * (ONE - values) - 1)
    theta = log2_fixed(np.maximum(values, 1)) - log2_fixed(ONE - values)
    shift = FRACTION - UNIT.bit_length() + 1
    tables = (uniform >> shift).astype(np.int32), (theta >> shift).astype(np.int32)
    for table in tables:
        table.flags.writeable = False
    return tables


def distances(uniforms: NDArray[np.uint16], theta: NDArray[np.uint16]) -> NDArray[np.int32]:
    """Log-odds distance of each pair, int32, 0 .. 34 * `UNIT`."""
    of_uniform, of_theta = odds_tables()
    result: NDArray[np.int32] = np.abs(of_uniform[uniforms] - of_theta[theta])
    return result


def distance_histogram(uniforms: NDArray[np.uint16], theta: NDArray[np.uint16]) -> NDArray[np.int64]:
    """How many positions lie at each distance, int64 ``(34 * UNIT + 1,)``."""
    ranges = split(len(theta))
    partial = np.zeros((max(1, len(ranges)), 34 * UNIT + 1), dtype=np.int64)
    tables = odds_tables()

    def run(index: int) -> None:
        start, end = ranges[index]
        _histogram(uniforms[start:end], theta[start:end], *tables, partial[index])

    for_each(run, len(ranges))
    total: NDArray[np.int64] = partial.sum(axis=0)
    return total


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _histogram(
    uniforms: Any, theta: Any, of_uniform: Any, of_theta: Any, out: Any
) -> None:  # pragma: no cover - compiled
    for i in range(theta.size):
        out[abs(of_uniform[uniforms[i]] - of_theta[theta[i]])] += 1


def uniform_bounds(threshold: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """For every theta, the uniforms that are not further away than ``threshold``.

    Returns
    -------
    low, end
        int32 ``(65536,)`` each, indexed by theta: ``distance <= threshold`` is the same as ``low <= u < end``, so that
        a loop over millions of positions looks up one line of a table that fits the cache, and computes nothing.
    """
    of_theta, below = odds_tables()[1].astype(np.int64), _uniforms_below()
    low = below[np.clip(of_theta - threshold, -_LIMIT, _LIMIT) + _LIMIT]
    end = below[np.clip(of_theta + threshold + 1, -_LIMIT, _LIMIT) + _LIMIT]
    return low, end


@functools.lru_cache(maxsize=1)
def _uniforms_below() -> NDArray[np.int32]:
    """How many uniforms have log-odds below ``x - _LIMIT``, int32 ``(2 * _LIMIT + 1,)``."""
    return np.searchsorted(odds_tables()[0], np.arange(-_LIMIT, _LIMIT + 1), side="left").astype(np.int32)
