"""Head ``ridge``: ridge regression on one-hot labels in closed form, the same for every split of the data.

Each client sends the moments of its features once. Their sum is the Gram matrix and the class sums of all features
together, from which the server solves as if it had the features: FED3R (Fanì, Camoriano, Caputo, Ciccone,
arXiv 2406.01116) for DeltaMask's head. The intercept is not penalised; choosing penalty and temperature is ours.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from common.models.heads.base import Head, softmax_head
from common.models.heads.moment_head import MomentHead
from common.models.heads.moments import Moments

__all__ = ["Ridge", "solve_ridge"]

_PENALTIES = 10.0 ** (np.arange(-16, 13) / 4)
"""Candidates for the penalty, in units of the mean eigenvalue of the scatter: 1e-4 to 1e3."""
_TEMPERATURE = 0.5
"""Ridge scores over _TEMPERATURE / sqrt(classes) are logits; measured, see docs/algorithm.md."""


class Ridge(MomentHead):
    """Exact ridge regression from summed moments."""

    name: ClassVar[str] = "ridge"
    title: ClassVar[str] = "ridge head"
    matrix: ClassVar[bool] = True

    def head_of(self, moments: Moments) -> Head:
        """Ridge regression on all examples, as a head."""
        weight, bias, _ = solve_ridge(moments)
        return softmax_head(weight, bias, moments.counts, _TEMPERATURE / math.sqrt(len(moments.counts)))


def solve_ridge(
    moments: Moments, penalty: float | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Ridge regression of one-hot labels on features; by default with the penalty of least generalised cross-validation
    error.

    That error (Golub, Heath and Wahba 1979) is leave-one-out's with every example's leverage replaced by their mean,
    and so a function of sums: n RSS / (n - df)^2, df = 1 + sum of s / (s + penalty) over the eigenvalues s.

    Parameters
    ----------
    moments
        Of all examples, with the scatter matrix.
    penalty
        Another one, positive, in the units of the scatter.

    Returns
    -------
    weight, bias, penalty
        Scores are ``x @ weight.T + bias``, ``(classes, features)`` and ``(classes,)``. Where no feature varies, or
        there is one class only, the weights are 0.
    """
    counts, mean = moments.counts, moments.mean
    n, shares = counts.sum(), counts / counts.sum()
    eigenvalues, axes = np.linalg.eigh(moments.total)
    eigenvalues = np.maximum(eigenvalues, 0.0)  # rounding may leave what is 0 a little below
    scale = float(eigenvalues.mean())
    if scale == 0.0:
        return np.zeros_like(moments.means), shares, 0.0
    # Features and labels, both centred, multiplied: along the axes, (features, classes).
    products = axes.T @ ((moments.means - mean) * counts[:, None]).T
    label_scatter = n * float((shares * (1 - shares)).sum())

    def error(candidate: float) -> float:
        shrunk = products**2 / (eigenvalues + candidate)[:, None]
        residual = label_scatter - float((shrunk * (1 + candidate / (eigenvalues + candidate))[:, None]).sum())
        freedom = 1 + float((eigenvalues / (eigenvalues + candidate)).sum())
        return float(n) * max(residual, 0.0) / (float(n) - freedom) ** 2 if freedom < n else math.inf

    if penalty is None:
        penalty = min((scale * float(step) for step in _PENALTIES[::-1]), key=error)  # of equals the largest
    weight = (axes @ (products / (eigenvalues + penalty)[:, None])).T
    return weight, shares - weight @ mean, penalty
