"""The part of a client's images that it never trains on, to tell how well the model serves this client."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["hold_out"]


def hold_out(labels: NDArray[np.int64], fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide images into a training and a validation part, each class in the same proportion.

    ``round(fraction * n)`` images are held out. Each class gives the whole part of its share, and the classes with the
    largest remainders one more (Hamilton's method); the last image of a class stays for training. Our choice.

    Parameters
    ----------
    labels
        Classes ``(n,)``.
    fraction
        In [0, 1).
    seed
        Decides which images of a class are held out.

    Returns
    -------
    Positions for training and for validation, int64, ascending, together ``0 .. n - 1``.
    """
    rng = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    shares = fraction * counts
    takes = np.minimum(shares.astype(np.int64), counts - 1)
    missing = round(fraction * len(labels)) - int(takes.sum())
    for i in np.argsort(-(shares - takes), kind="stable")[: max(0, missing)]:
        takes[i] += takes[i] < counts[i] - 1
    held = [rng.permutation(np.flatnonzero(labels == c))[:take] for c, take in zip(classes, takes, strict=True)]
    validation = np.sort(np.concatenate([*held, np.zeros(0, np.int64)]))
    return np.setdiff1d(np.arange(len(labels)), validation), validation
