"""What answers cost: zero-concentrated differential privacy, added up and read as (epsilon, delta).

A mechanism is rho-zCDP if the Renyi divergence of order alpha between its outputs on neighbouring data is at most
``alpha * rho`` for every alpha above 1 (Bun and Steinke, arXiv 1605.02658). Costs of several answers add up, however
each depends on those before. Neighbours are data sets of one site in which one image, with its label, stands in the
place of another; how many images there are is no secret.

Two mechanisms are used. Gaussian noise of deviation sigma on a vector whose values on neighbours are S apart at most is
``S^2 / (2 sigma^2)``-zCDP. A vector of independent bits with ``P(1) = 1/2 + x_j``, ``|x_j| <= 1/8``, whose x on
neighbours are S apart is ``(64/15)^2 S^2 / 8``-zCDP: in the natural parameter ``eta = log(p / (1 - p))`` the log
partition function of a bit has a second derivative of at most 1/4, so that the divergence of order alpha is at most
``alpha (eta - eta')^2 / 8``, and ``d eta / d x = 1 / (p (1 - p))`` is at most 64/15 there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from common.config.section import Sections
from common.config.shared import RoundsSection
from common.methods.private.config import PrivacySection

__all__ = ["FURTHEST", "Budget", "bits_scale", "epsilon_of", "gaussian_deviation", "rho_of"]

FURTHEST = 1 / 8
"""How far from 1/2 the probability of a bit goes: no bit alone says more than log(5/3) = 0.51 of anything."""
_SLOPE = 1 / (0.25 - FURTHEST**2)
_ALPHAS = 1 + np.logspace(-3, 5, 4001)
_DIVISIONS = 80


def epsilon_of(rho: float, delta: float) -> float:
    """The least epsilon such that ``rho``-zCDP is (epsilon, delta)-DP, by the orders of `_ALPHAS`.

    Of order alpha: ``alpha rho + log((alpha - 1) / alpha) - (log delta + log alpha) / (alpha - 1)`` (Canonne, Kamath
    and Steinke, arXiv 2004.00010, proposition 12).

    Parameters
    ----------
    rho
        At least 0.
    delta
        In (0, 1).
    """
    if rho == 0:
        return 0.0
    alpha = _ALPHAS
    found = alpha * rho + np.log1p(-1 / alpha) - (math.log(delta) + np.log(alpha)) / (alpha - 1)
    return max(0.0, float(found.min()))


def rho_of(epsilon: float, delta: float) -> float:
    """The largest rho whose `epsilon_of` is at most ``epsilon``."""
    low, high = 0.0, epsilon  # rho-zCDP has an epsilon of more than rho, unless delta is large
    while epsilon_of(high, delta) < epsilon:
        high *= 2
    for _ in range(_DIVISIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if epsilon_of(middle, delta) <= epsilon else (low, middle)
    return low


def gaussian_deviation(apart: float, rho: float) -> float:
    """Deviation of the noise that makes a vector rho-zCDP whose values on neighbours are ``apart`` at most."""
    return apart / math.sqrt(2 * rho)


def bits_scale(images: int, rho: float) -> float:
    """What the mean of vectors of at most length 1, one of each image, is multiplied with to be ``x`` above: neighbours
    are ``2 / images`` apart.
    """
    return math.sqrt(8 * rho) / _SLOPE * images / 2


@dataclass(frozen=True)
class Budget:
    """What a run may cost a client, in rho."""

    head: float
    """Of the statistics for the head."""
    round: float
    """Of each round."""
    total: float
    delta: float

    @classmethod
    def from_config(cls, run: Sections) -> Self:
        """By the run's keys: as if every client took part in every round."""
        keys, rounds = run[PrivacySection], run[RoundsSection].num_server_rounds
        total = rho_of(keys.privacy_epsilon, keys.privacy_delta)
        head = total * keys.privacy_head_share
        return cls(head, (total - head) / rounds, total, keys.privacy_delta)
