"""Moments of labelled features: what the closed-form heads need, and the same however the examples are divided.

A client sends, little-endian: examples of each class (uint32), the mean feature of each class that it has (float32),
and the scatter of its features around these means (float32): the upper triangle of the matrix, or its trace alone.
Means and scatter instead of raw sums keep float32 exact enough where features lie far from zero.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.errors import BadMetric
from common.models.heads.base import LARGEST, Statistics

if TYPE_CHECKING:
    import torch

__all__ = ["Moments", "max_moment_bytes", "measure_moments", "merge_moments", "pack_moments", "unpack_moments"]

_ROUNDING = 1e-6
"""Rounding to float32 moves the eigenvalues of a scatter matrix by less than this share of its trace."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Counts, means and scatter of labelled features, float64."""

    counts: NDArray[Any]
    """Examples of each class, int64 ``(classes,)``; float64 where a client counts for fewer than it claims."""
    means: NDArray[np.float64]
    """Mean feature of each class, ``(classes, features)``; zeros for a class without examples."""
    within: NDArray[np.float64]
    """Scatter around these means, the sum over classes of ``(X - mean)^T (X - mean)``: ``(features, features)``, or
    its trace, ``()``.
    """

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of all features, ``(features,)``."""
        mean: NDArray[np.float64] = self.counts @ self.means / self.counts.sum()
        return mean

    @property
    def total(self) -> NDArray[np.float64]:
        """Scatter around `mean`, of the shape of `within`."""
        return self.within + _scatter(self.means - self.mean, self.counts, self.within.ndim == 2)


def measure_moments(features: torch.Tensor, labels: torch.Tensor, classes: int, matrix: bool) -> Moments:
    """Moments of one client's features ``(n, features)`` and labels ``(n,)``; ``matrix`` asks for the whole scatter."""
    x, y = features.detach().cpu().numpy().astype(np.float64), labels.cpu().numpy()
    counts = np.bincount(y, minlength=classes)
    means = np.zeros((classes, x.shape[1]))
    for label in np.flatnonzero(counts):
        means[label] = x[y == label].mean(0)
    return Moments(counts, means, _scatter(x - means[y], np.ones(len(x)), matrix))


def merge_moments(replies: Iterable[Statistics], classes: int, features: int, matrix: bool) -> Moments:
    """Moments of all examples from the bytes of disjoint parts, at least one, each counted as often as its factor says.

    They are merged in the order given, with one part unpacked at a time (Chan, Golub and LeVeque 1983).
    """
    return functools.reduce(
        _merge,
        (_scaled(unpack_moments(sent.data, classes, features, sent.examples, matrix), sent.factor) for sent in replies),
    )


def _scaled(moments: Moments, factor: float) -> Moments:
    """As of fewer examples of the same kind."""
    return moments if factor == 1 else Moments(moments.counts * factor, moments.means, moments.within * factor)


def _merge(a: Moments, b: Moments) -> Moments:
    counts = a.counts + b.counts
    share = b.counts / np.where(counts > 0, counts, 1)
    apart = b.means - a.means
    within = a.within + b.within + _scatter(apart, a.counts * share, a.within.ndim == 2)
    return Moments(counts, a.means + apart * share[:, None], within)


def _scatter(offsets: NDArray[np.float64], weights: NDArray[Any], matrix: bool) -> NDArray[np.float64]:
    """Sum of the weighted outer squares of offsets ``(n, features)``, or its trace."""
    weighted = offsets * weights[:, None]
    return np.asarray(weighted.T @ offsets if matrix else (weighted * offsets).sum(), dtype=np.float64)


def max_moment_bytes(classes: int, features: int, matrix: bool) -> int:
    """Bytes of the moments of a client that has every class."""
    return 4 * classes * (1 + features) + 4 * _scatter_values(features, matrix)


def _scatter_values(features: int, matrix: bool) -> int:
    return features * (features + 1) // 2 if matrix else 1


def pack_moments(moments: Moments) -> bytes:
    """Bytes of a client's moments; only the means of classes that it has."""
    within = moments.within
    upper = within[np.triu_indices(len(within))] if within.ndim == 2 else within
    return (
        moments.counts.astype("<u4").tobytes()
        + moments.means[moments.counts > 0].astype("<f4").tobytes()
        + upper.astype("<f4").tobytes()
    )


def unpack_moments(data: bytes, classes: int, features: int, examples: int, matrix: bool) -> Moments:
    """Read what `pack_moments` wrote.

    Raises
    ------
    BadMetric
        If the counts do not sum to ``examples``, the size is not what they ask for, a value is not finite or larger
        than features within a million give, or the scatter is not one: a negative variance in some direction.
    """
    if len(data) < 4 * classes:
        raise BadMetric(f"{len(data)} bytes of statistics for {classes} classes")
    counts = np.frombuffer(data, "<u4", classes).astype(np.int64)
    seen = np.flatnonzero(counts)
    if counts.sum() != examples:
        raise BadMetric(f"statistics of {counts.sum()} examples from a client that reports {examples}")
    expected = 4 * (classes + len(seen) * features + _scatter_values(features, matrix))
    if len(data) != expected:
        raise BadMetric(f"{len(data)} bytes of statistics with {len(seen)} classes; {expected} expected")
    with np.errstate(invalid="ignore"):  # of signalling NaNs, which are refused below
        values = np.frombuffer(data, "<f4", offset=4 * classes).astype(np.float64)
    means, scatter = np.zeros((classes, features)), values[len(seen) * features :]
    means[seen] = values[: len(seen) * features].reshape(len(seen), features)
    # NaN compares with nothing.
    if not (np.abs(means) <= LARGEST).all() or not (np.abs(scatter) <= features * counts.sum() * LARGEST**2).all():
        raise BadMetric(f"the statistics hold values that are not finite, or of features above {LARGEST:g}")
    within = _symmetric(scatter, features) if matrix else scatter[0]
    if not _is_scatter(np.atleast_2d(within)):
        raise BadMetric("the scatter of the features has a negative variance in some direction")
    return Moments(counts, means, np.asarray(within))


def _symmetric(upper: NDArray[np.float64], features: int) -> NDArray[np.float64]:
    matrix = np.zeros((features, features))
    matrix[np.triu_indices(features)] = upper
    return matrix + np.triu(matrix, 1).T


def _is_scatter(matrix: NDArray[np.float64]) -> bool:
    """Whether no eigenvalue is negative, but for rounding: a Cholesky factor exists."""
    trace = np.trace(matrix)
    if trace == 0:
        return not matrix.any()
    if trace < 0:
        return False
    try:
        np.linalg.cholesky(matrix / trace + _ROUNDING * np.eye(len(matrix)))
    except np.linalg.LinAlgError:
        return False
    return True
