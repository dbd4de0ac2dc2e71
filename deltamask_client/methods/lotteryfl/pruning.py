"""Pruning by magnitude: which of the weights that a client still keeps it gives up next (LotteryFL)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["prune"]


def prune(
    weights: NDArray[np.float32],
    kept: NDArray[np.bool_],
    prunable: NDArray[np.bool_],
    step: float,
    density: float,
) -> NDArray[np.bool_]:
    """Give up the smallest of the weights kept, over all tensors at once.

    Parameters
    ----------
    weights
        Float32 ``(count,)``.
    kept, prunable
        Bool ``(count,)``: the mask so far, and the weights that may be given up at all.
    step
        Share of the prunable weights kept that is given up, in (0, 1); rounded up to whole weights.
    density
        Share of all prunable weights, in (0, 1], that stays whatever the step; rounded up.

    Returns
    -------
    The new mask. It is the old one where no more may be given up. Of equal magnitudes the lower position goes first.
    """
    left = np.flatnonzero(kept & prunable)
    least = math.ceil(density * np.count_nonzero(prunable) - 1e-9)
    count = min(math.ceil(step * len(left) - 1e-9), len(left) - least)
    if count <= 0:
        return kept
    smaller = kept.copy()
    smaller[left[np.argsort(np.abs(weights[left]), kind="stable")[:count]]] = False
    return smaller
