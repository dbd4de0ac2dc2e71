"""Sizes of the weights that signs multiply: one for each layer, and a scale for what pruning has taken."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["kept_scales", "signed_constant"]


def signed_constant(weights: NDArray[np.float32], segments: Sequence[int]) -> NDArray[np.float32]:
    """Every weight as its sign times its layer's root mean square; the sign of 0 is +1.

    Parameters
    ----------
    weights
        float32 ``(d,)``.
    segments
        Weights of each layer; they add up to d.
    """
    parts = []
    for part in np.split(weights, np.cumsum(segments)[:-1]):
        # Rounded once, whatever the order of the sum: the same on every machine.
        size = math.sqrt(math.fsum(part.astype(np.float64) ** 2) / max(1, len(part)))
        parts.append(np.where(part >= 0, np.float32(size), np.float32(-size)))
    return np.concatenate(parts).astype(np.float32)


def kept_scales(kept: NDArray[np.bool_], segments: Sequence[int]) -> NDArray[np.float32]:
    """Square root of (weights / kept weights) of each layer, float32 ``(layers,)``; 1 where nothing is kept."""
    counts = [int(np.count_nonzero(part)) for part in np.split(kept, np.cumsum(segments)[:-1])]
    scales = [math.sqrt(size / count) if count else 1.0 for size, count in zip(segments, counts, strict=True)]
    return np.array(scales, dtype=np.float32)
