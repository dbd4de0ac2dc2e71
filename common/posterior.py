"""Bayesian aggregation of masks: a Beta posterior per weight, as pure functions (DeltaMask, arXiv 2311.17299, section
3.3).

Each weight has a Beta(prior, prior) belief on the probability that its mask bit is 1. Every accepted client mask is one
Bernoulli observation of each weight, so the posterior after K masks with ``ones`` ones is Beta(prior + ones, prior + K
- ones), and all weights share K. Counts are integers: folding the masks in any order, or in parts, gives the same
posterior bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.theta import quantise

__all__ = ["BetaPosterior", "empty_posterior", "fold", "is_reset_round", "mode", "posterior_of"]


@dataclass(frozen=True)
class BetaPosterior:
    """What a posterior has seen since its prior: alpha = prior + ones, beta = prior + masks - ones."""

    ones: NDArray[np.uint16]
    """Ones seen at each position, shape ``(d,)``."""
    masks: int
    """Masks seen, at most 65535."""
    prior: float
    """lambda_0 of the symmetric prior, at least 1 (so that the mode exists)."""


def empty_posterior(d: int, prior: float = 1.0) -> BetaPosterior:
    """The prior itself, Beta(prior, prior) at ``d`` positions."""
    if prior < 1:
        raise ValueError(f"prior must be at least 1, or the posterior has no mode; got {prior}")
    return BetaPosterior(np.zeros(d, dtype=np.uint16), 0, prior)


def fold(posterior: BetaPosterior, mask: NDArray[np.bool_]) -> BetaPosterior:
    """Add one client's mask (bool, shape ``(d,)``): alpha += m, beta += 1 - m."""
    if posterior.masks >= 65535:
        raise ValueError("a posterior holds at most 65,535 masks; reset it more often")
    return BetaPosterior(posterior.ones + mask.astype(np.uint16), posterior.masks + 1, posterior.prior)


def mode(posterior: BetaPosterior, clip: float = 0.01) -> NDArray[np.uint16]:
    """Most probable theta, ``(alpha - 1) / (alpha + beta - 2)``, on the 16-bit grid.

    Parameters
    ----------
    posterior
        At least one mask, or a prior above 1.
    clip
        Theta is kept in [clip, 1 - clip] (our choice), so that a score never becomes so extreme that a client cannot
        move it.

    Returns
    -------
    uint16 array ``(d,)``.
    """
    if 2 * posterior.prior + posterior.masks <= 2:
        raise ValueError("the posterior has seen no mask and its prior is flat: it has no mode")
    return _modes(posterior.masks, posterior.prior, clip)[posterior.ones]


def posterior_of(theta: NDArray[np.uint16], masks: int, prior: float, clip: float) -> BetaPosterior | None:
    """The posterior that has seen ``masks`` masks and has theta as its `mode`: what a client that holds theta alone
    needs to fold further masks into.

    Returns
    -------
    None if theta does not tell: two counts of ones have one mode (with a flat prior, from about 1 / clip masks on), or
    theta is no such mode.
    """
    modes = _modes(masks, prior, clip).astype(np.int64)
    if (np.diff(modes) <= 0).any():
        return None
    ones = np.full(65536, -1, dtype=np.int32)
    ones[modes] = np.arange(masks + 1)
    found = ones[theta]
    return None if (found < 0).any() else BetaPosterior(found.astype(np.uint16), masks, prior)


def _modes(masks: int, prior: float, clip: float) -> NDArray[np.uint16]:
    """The mode for each count of ones, 0 to ``masks``: a weight has only that many, so they are looked up."""
    values = (prior - 1 + np.arange(masks + 1, dtype=np.float64)) / (2 * prior + masks - 2)
    return quantise(np.clip(values, clip, 1 - clip))


def is_reset_round(server_round: int, participation: float) -> bool:
    """Whether the posterior starts again from its prior before this round.

    Every ``ceil(1 / participation)`` rounds (paper): by then each client has been heard once on average, and older
    masks describe an older theta.
    """
    period = math.ceil(1 / participation - 1e-9)
    return (server_round - 1) % period == 0
