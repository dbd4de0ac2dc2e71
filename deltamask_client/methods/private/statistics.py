"""The head's statistics with Gaussian noise: counts, class sums and second moments of features of bounded length."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from common.methods.private.accountant import gaussian_deviation
from common.models.backbone import Backbone
from common.models.heads.moments import Moments
from common.models.preprocess import preprocess
from deltamask_client.methods.private.noise import Noise

__all__ = ["noisy_moments", "usual_length"]

_PICTURES = 16
_APART = {True: 6.0, False: 5.0}
"""Squared distance of the statistics of neighbours, with the second moments as a matrix or as their trace, for features
of length 1 at most. If the two images have one class: 4 of the class sums, 0 of the counts; if not: 2 and 2. A matrix
of ``x x^T`` adds 2, a trace 1."""


def usual_length(backbone: Backbone) -> float:
    """Length of the features of pictures of noise: what is usual for the network, whatever the data (our choice)."""
    rng, side = np.random.default_rng(0), backbone.spec.size
    pictures = rng.integers(0, 256, (_PICTURES, side, side, 3), dtype=np.uint8)
    with torch.no_grad():
        device = next(backbone.tail.parameters()).device
        features = backbone.unmasked_features(backbone.prefix(preprocess(pictures, backbone.spec).to(device)))
    return float(features.float().norm(dim=1).median())


def noisy_moments(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    *,
    matrix: bool,
    radius: float,
    rho: float,
    noise: Noise,
) -> Moments:
    """Moments that any head takes, rho-zCDP.

    Noise is added to counts, class sums and second moments. What comes after it, so that they are possible moments
    again, costs nothing: no count is negative, they add up to the number of images, no mean is longer than the radius,
    and no direction has a negative variance.

    Parameters
    ----------
    features, labels
        Float32 ``(n, features)`` and int64 ``(n,)``.
    classes
        Number of outputs.
    matrix
        Whether the head takes the scatter matrix, or its trace.
    radius
        Longer features are shortened to this length.
    rho
        Cost of all of it.
    noise
        Of this client.
    """
    x = features.astype(np.float64) / radius
    x /= np.maximum(1, np.linalg.norm(x, axis=1, keepdims=True))
    deviation = gaussian_deviation(float(np.sqrt(_APART[matrix])), rho)
    counts = np.bincount(labels, minlength=classes) + deviation * noise.normal((classes,))
    sums = np.zeros((classes, x.shape[1]))
    np.add.at(sums, labels, x)
    sums += deviation * noise.normal(sums.shape)
    whole = _whole(counts, len(labels))
    means = sums / np.maximum(1, whole)[:, None]
    means /= np.maximum(1, np.linalg.norm(means, axis=1, keepdims=True))
    means[whole == 0] = 0
    if matrix:
        upper = deviation * noise.normal((x.shape[1], x.shape[1]))
        # Off the diagonal a value stands twice in the matrix: its noise is that of two halves.
        second = x.T @ x + (np.triu(upper, 1) + np.triu(upper, 1).T) / np.sqrt(2) + np.diag(np.diag(upper))
        within = _positive(second - (means.T * whole) @ means)
    else:
        trace = float((x**2).sum()) + deviation * float(noise.normal((1,))[0])
        within = np.asarray(max(0.0, trace - float((whole[:, None] * means**2).sum())))
    return Moments(whole, means * radius, within * radius**2)


def _whole(counts: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers near these that add up to the total; of the largest remainders."""
    positive = np.maximum(counts, 0)
    shares = positive * (total / positive.sum()) if positive.sum() > 0 else np.full(len(counts), total / len(counts))
    whole: NDArray[np.int64] = np.floor(shares).astype(np.int64)
    whole[np.argsort(whole - shares, kind="stable")[: total - int(whole.sum())]] += 1
    return whole


def _positive(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest matrix without negative eigenvalues."""
    values, axes = np.linalg.eigh(matrix)
    positive: NDArray[np.float64] = (axes * np.maximum(values, 0)) @ axes.T
    return (positive + positive.T) / 2
