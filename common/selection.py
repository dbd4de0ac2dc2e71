"""Which mask changes a client sends: the top kappa by Kullback-Leibler divergence (DeltaMask, section 3.2)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from common.theta import ONE, quantise

__all__ = ["bernoulli_kl", "cosine", "largest_changes", "select_top"]


def bernoulli_kl(p: NDArray[np.floating], q: NDArray[np.floating]) -> NDArray[np.float64]:
    """``KL(Bern(p) || Bern(q))`` in bits, elementwise; p in [0, 1], q in (0, 1)."""
    p = np.asarray(p, dtype=np.float64)
    q = np.asarray(q, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        one = np.where(p > 0, p * np.log2(p / q), 0.0)
        zero = np.where(p < 1, (1 - p) * np.log2((1 - p) / (1 - q)), 0.0)
    divergence: NDArray[np.float64] = np.maximum(one + zero, 0.0)
    return divergence


def select_top(
    positions: NDArray[np.int64], theta_local: NDArray[np.float32], theta: NDArray[np.uint16], keep: float
) -> NDArray[np.int64]:
    """The share ``keep`` of ``positions`` where the local probability moved furthest, in ascending order.

    Ties go to the lower position, so that equal input gives equal bytes.

    Parameters
    ----------
    positions
        Ascending positions whose mask bit changed.
    theta_local, theta
        Local probabilities (float32, ``(d,)``) and global ones (uint16 grid, ``(d,)``).
    keep
        kappa, in (0, 1]; ``ceil(keep * len(positions))`` positions are kept.
    """
    count = math.ceil(keep * len(positions) - 1e-9)
    if count >= len(positions):
        return positions
    divergence = bernoulli_kl(theta_local[positions], theta[positions].astype(np.float64) / ONE)
    best = np.argsort(-divergence, kind="stable")[:count]
    return np.sort(positions[best])


def largest_changes(
    theta_local: NDArray[np.float32], theta: NDArray[np.uint16], left_out: float
) -> NDArray[np.float32]:
    """Local probabilities with the smallest changes taken back, those that share ``left_out`` of the squared change.

    A flip costs as much, and has as much noise, whatever it stands for; what a change is worth goes with its square. So
    what is worth its price is what has moved furthest (our choice; docs/algorithm.md, "Small changes").

    Parameters
    ----------
    theta_local, theta
        Local probabilities (float32, ``(d,)``) and global ones (uint16 grid, ``(d,)``).
    left_out
        In [0, 1).

    Returns
    -------
    float32 ``(d,)``. All changes of one size, in 1/65536, go the same way: equal input gives equal output anywhere.
    """
    change = np.abs(quantise(theta_local).astype(np.int32) - theta)
    count = np.bincount(change, minlength=1)
    squared = np.cumsum(count * np.arange(len(count), dtype=np.int64) ** 2)
    least = int(np.searchsorted(squared, left_out * float(squared[-1]), side="right"))
    return np.where(change >= max(least, 1), theta_local, (theta / np.float32(ONE)).astype(np.float32))


def cosine(first: float, final: float, server_round: int, num_rounds: int) -> float:
    """Cosine schedule from ``first`` in round 1 to ``final`` in the last round: of kappa (the paper names the schedule;
    its end is our choice), and of the step.
    """
    if num_rounds <= 1:
        return first
    progress = (server_round - 1) / (num_rounds - 1)
    return final + (first - final) * 0.5 * (1 + math.cos(math.pi * progress))
