"""Means of float32 vectors that do not depend on the order in which the vectors come."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from common.codecs.parallel import for_parts, split
from common.errors import BadMetric

__all__ = ["FixedPointMean"]

_FRACTION_BITS = 26
_MOST_EXAMPLES = 2**28
"""In a round: 2^28 examples of weights below 2^8 with 2^26 steps each stay within 63 bits."""

_BLOCK = 1 << 16


class FixedPointMean:
    """Mean by examples. The sum is kept in integers (steps of 2^-26), so that the order of replies does not matter and
    no more than one of them is in memory (our choice).

    Parameters
    ----------
    count
        Length of the vectors.
    vectors
        Most that are added: each may have its share of the examples that the sum has room for, so that none can take
        the others' room.
    partial
        Vectors may lack positions: each position is then averaged over those that have it.
    """

    def __init__(self, count: int, vectors: int = 1, partial: bool = False) -> None:
        self._most = _MOST_EXAMPLES // max(1, vectors)
        self._sum = np.zeros(count, np.int64)
        self._examples = np.zeros(count if partial else (), np.int64)  # of each position, or of all alike

    def add(self, values: NDArray[np.float32], examples: int, kept: NDArray[np.bool_] | None = None) -> None:
        """Add one vector, as often as it has examples.

        Parameters
        ----------
        values
            Float32, of at most 2^8; one for each position kept, ascending.
        examples
            At least 1.
        kept
            Positions that there are values of, bool ``(count,)``; None: all.

        Raises
        ------
        BadMetric
            If there are more examples than the sum has room for from one vector.
        ValueError
            If there is not one value for each position kept, or positions lack in a mean that is not ``partial``.

        Whichever it is, nothing has been added then.
        """
        if examples > self._most:
            raise BadMetric(f"{examples:,} examples; a client of such a round may have {self._most:,}")
        parts = split(len(self._sum))
        if kept is None:
            _check_length(values, len(self._sum))
            for_parts(lambda start, end: _add(values[start:end], examples, self._sum[start:end]), parts)
            self._examples += examples
        else:
            if self._examples.shape != kept.shape:
                raise ValueError(f"positions lack: {kept.shape} of {self._examples.shape}")
            # Where the values of each part begin, and the end of the last.
            at = np.cumsum([0, *(np.count_nonzero(kept[start:end]) for start, end in parts)]).tolist()
            _check_length(values, at[-1])

            def add(start: int, end: int, begin: int) -> None:
                part = slice(start, end)
                _add_kept(values[begin:], kept[part], examples, self._sum[part], self._examples[part])

            for_parts(add, [(*part, begin) for part, begin in zip(parts, at[:-1], strict=True)])

    def mean(self, otherwise: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mean, float32 ``(count,)``; the values of ``otherwise`` at positions that no vector had."""
        mean = np.empty(len(self._sum), np.float32)
        examples = np.broadcast_to(self._examples, self._sum.shape)
        for start in range(0, len(mean), _BLOCK):  # temporaries have four times a block's size
            part = slice(start, start + _BLOCK)
            exact = otherwise[part].astype(np.float64)
            np.divide(self._sum[part], examples[part] * 2.0**_FRACTION_BITS, out=exact, where=examples[part] > 0)
            mean[part] = exact
        return mean


def _check_length(values: NDArray[np.float32], wanted: int) -> None:
    if values.shape != (wanted,):
        raise ValueError(f"values of shape {values.shape}; {wanted:,} are needed")


# In one pass over what is added and what it is added to: with NumPy, each value is copied four times.


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _add(values: Any, examples: Any, out: Any) -> None:  # pragma: no cover - compiled
    for i in range(out.size):
        out[i] += _steps(values[i]) * examples


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _add_kept(values: Any, kept: Any, examples: Any, out: Any, counts: Any) -> None:  # pragma: no cover - compiled
    """``values`` begin with that of the first position kept here."""
    at = 0
    for i in range(out.size):
        if kept[i]:
            out[i] += _steps(values[at]) * examples
            counts[i] += examples
            at += 1


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _steps(value: Any) -> Any:  # pragma: no cover - compiled
    """A value in steps of 2^-26, to the nearest, to the even one of two: the multiplication is exact."""
    return np.int64(np.rint(np.float64(value) * 2.0**_FRACTION_BITS))
