"""Means of float32 vectors that do not depend on the order in which the vectors come."""

from __future__ import annotations

from types import EllipsisType

import numpy as np
from numpy.typing import NDArray

from common.errors import BadMetric

__all__ = ["FixedPointMean"]

_FRACTION_BITS = 26
_MOST_EXAMPLES = 2**28
"""In a round: 2^28 examples of weights below 2^8 with 2^26 steps each stay within 63 bits."""


class FixedPointMean:
    """Mean by examples. The sum is kept in integers (steps of 2^-26), so that the order of replies does not matter and
    no more than one of them is in memory (our choice).

    Parameters
    ----------
    count
        Length of the vectors.
    partial
        Vectors may lack positions: each position is then averaged over those that have it.
    """

    def __init__(self, count: int, partial: bool = False) -> None:
        self._sum = np.zeros(count, np.int64)
        self._examples = np.zeros(count if partial else (), np.int64)  # of each position, or of all alike
        self._total = 0

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
            If there are more examples than the sum has room for; nothing has been added then.
        """
        if self._total + examples > _MOST_EXAMPLES:
            raise BadMetric(f"{self._total + examples:,} examples; a round may have {_MOST_EXAMPLES:,}")
        where: NDArray[np.bool_] | EllipsisType = ... if kept is None else kept
        self._sum[where] += np.rint(values.astype(np.float64) * 2**_FRACTION_BITS).astype(np.int64) * examples
        self._examples[where] += examples
        self._total += examples

    def mean(self, otherwise: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mean, float32 ``(count,)``; the values of ``otherwise`` at positions that no vector had."""
        mean = otherwise.astype(np.float64)
        np.divide(self._sum, self._examples * 2.0**_FRACTION_BITS, out=mean, where=self._examples > 0)
        return mean.astype(np.float32)
