"""Weights of which only the sign is random: one magnitude for each layer.

Signed constants are those of Zhou et al. (arXiv 1905.01067) and Ramanujan et al. (arXiv 1911.13299). Their magnitude is
the standard deviation of the distribution that weights are drawn from; here it is that of the weights themselves, so
that those from a file have one too (our choice). Where weights are pruned by saliency, take that of the drawn weights
and set the constants afterwards: equal magnitudes make saliencies equal, and then positions decide what stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import fsum, sqrt

import numpy as np
from numpy.typing import NDArray

from common.errors import ModelError

__all__ = ["kept_factors", "signed_constants"]


def signed_constants(weights: NDArray[np.float32], segments: Sequence[int]) -> NDArray[np.float32]:
    """Give every weight its layer's standard deviation, with its own sign; 0 counts as positive.

    Parameters
    ----------
    weights
        Flat, float32 ``(d,)``.
    segments
        Entries of each layer, d in all.

    Returns
    -------
    float32 ``(d,)``; the same on every machine, since sums are exact until they are rounded once.

    Raises
    ------
    ModelError
        If all weights of a layer are equal: they have no deviation.
    """
    constants = np.empty(len(weights), np.float32)
    for number, layer in enumerate(_layers(segments)):
        part = weights[layer].astype(np.float64)
        mean = fsum(part.tolist()) / len(part)
        deviation = np.float32(sqrt(fsum(((part - mean) ** 2).tolist()) / len(part)))
        if deviation == 0:
            raise ModelError(
                f"the {len(part):,} weights of masked tensor {number} are all equal, so have no deviation; set "
                "sign-magnitudes = 'own', or name other weights"
            )
        constants[layer] = np.where(part < 0, -deviation, deviation)
    return constants


def kept_factors(kept: NDArray[np.bool_], segments: Sequence[int]) -> NDArray[np.float32]:
    """How much larger the kept weights of each layer must be for its outputs to stay as large as without pruning:
    sqrt(1 / kept share), since the variance of a sum grows with its terms (Ramanujan et al., with one share for all
    layers; each layer's own is our choice).

    Parameters
    ----------
    kept
        bool ``(d,)``.
    segments
        Entries of each layer, d in all.

    Returns
    -------
    float32 ``(layers,)``, at least 1.

    Raises
    ------
    ModelError
        If nothing of a layer is kept.
    """
    counts = [int(kept[layer].sum()) for layer in _layers(segments)]
    if 0 in counts:
        raise ModelError(f"no weight of masked tensor {counts.index(0)} is kept; raise density")
    return np.array([sqrt(size / count) for size, count in zip(segments, counts, strict=True)], np.float32)


def _layers(segments: Sequence[int]) -> Iterator[slice]:
    return (slice(end - size, end) for size, end in zip(segments, accumulate(segments), strict=True))
