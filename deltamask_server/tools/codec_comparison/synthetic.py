"""Rounds as training leaves them, without training: what benchmarks and the command line measure codecs on.

Theta is the mean of ten masks whose bits are 1 with probability 0.93, clipped as aggregation does it, and a local step
moves a share of the log-odds by normal amounts. That is our model of a round after the first ones; it has no layers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.codecs.state import SharedState
from common.errors import ConfigError
from common.theta import ONE

__all__ = ["MOST_DENSITY", "realistic_round", "round_of_density"]

MOST_DENSITY = 0.3
"""A position flips for at most one of the two signs of its step: near one half, nothing looks like training."""
_MOVED = 0.2
_STEP = 0.8
_CLIP = 0.01


def realistic_round(d: int, seed: int = 1) -> tuple[SharedState, NDArray[np.float32]]:
    """A round in which a fifth of the positions move, by 0.8 in log-odds (standard deviation); 0.84 % of them flip.

    Parameters
    ----------
    d
        Masked weights.
    seed
        Of theta, of the step and of the run, so that other seeds give other uniforms.

    Returns
    -------
    What both sides know, and theta_local, float32 ``(d,)`` in (0, 1).
    """
    shared, log_odds, direction = _draw(d, seed, _MOVED)
    return shared, _probability(log_odds + _STEP * direction)


def round_of_density(d: int, density: float, seed: int = 1) -> tuple[SharedState, NDArray[np.float32]]:
    """A round whose step is as large as it takes to flip a given share of the mask.

    Parameters
    ----------
    d
        Masked weights.
    density
        Flips / d, in [0, `MOST_DENSITY`]; rounding to the grid may miss it by one flip in a thousand. At 0,
        theta_local is theta.
    seed
        As for `realistic_round`.

    Raises
    ------
    ConfigError
        If the density is out of range, or so high that no step gives it for this d.
    """
    if not 0 <= density <= MOST_DENSITY:
        raise ConfigError(f"density = {density}: must be 0 to {MOST_DENSITY}; local training flips about 0.01")
    # Where a fifth of the positions move, no more than a tenth can flip, and long before that steps are absurd.
    shared, log_odds, direction = _draw(d, seed, min(1.0, max(_MOVED, 10 * density)))
    flips = round(density * d)
    if flips == 0:
        return shared, _probability(log_odds)
    # A position flips once the step carries its log-odds past those of its uniform: at the step margin / direction.
    uniform = (shared.uniforms + 0.5) / ONE
    margin = np.log(uniform / (1 - uniform)) - log_odds
    moves = np.flatnonzero(margin * direction > 0)
    if flips > len(moves):
        raise ConfigError(f"density = {density}: only {len(moves)} of d = {d} positions can flip; lower it")
    steps = np.sort(margin[moves] / direction[moves])
    # Between this flip and the next one: at the flip itself, rounding to the grid would decide.
    return shared, _probability(log_odds + steps[flips - 1 : flips + 1].mean() * direction)


def _draw(d: int, seed: int, moved: float) -> tuple[SharedState, NDArray[np.float64], NDArray[np.float64]]:
    """What both sides know, the log-odds of theta, and the direction of the step: 0 where nothing moves."""
    rng = np.random.default_rng(seed)
    theta = (np.clip(rng.binomial(10, 0.93, d) / 10, _CLIP, 1 - _CLIP) * ONE).astype(np.uint16)
    p = theta / ONE
    direction = rng.standard_normal(d) * (rng.random(d) < moved)
    return SharedState(theta, seed=seed, round=1, slot=1), np.log(p / (1 - p)), direction


def _probability(log_odds: NDArray[np.float64]) -> NDArray[np.float32]:
    return (1 / (1 + np.exp(-np.clip(log_odds, -40, 40)))).astype(np.float32)
