"""``beta``: a Beta posterior of each weight's probability (DeltaMask, arXiv 2311.17299, section 3.3).

Each weight has a Beta(prior, prior) belief on the probability that its mask bit is 1. Every accepted client mask is one
Bernoulli observation of each weight, so the posterior after K masks with ``ones`` ones is Beta(prior + ones, prior + K
- ones), and all weights share K. Counts are integers: folding the masks in any order, or in parts, gives the same
posterior bit for bit.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.aggregation.base import Rule
from common.config.section import Section, Sections
from common.config.shared import RoundsSection
from common.errors import BadGeometry
from common.saved import Saved
from common.theta import quantise

__all__ = [
    "BetaPosterior",
    "BetaRule",
    "BetaSection",
    "empty_posterior",
    "fold",
    "is_reset_round",
    "mode",
    "posterior_of",
]

_MOST_MASKS = 65_535
_START = struct.Struct("<Hdd")


class BetaSection(Section):
    """Of the Beta posterior."""

    title: ClassVar[str] = "Aggregation `beta`"
    under: ClassVar[str] = "aggregation"

    theta_clip: float = Field(0.01, gt=0, lt=0.5, description="Aggregated probabilities stay in [clip, 1 - clip].")
    prior: float = Field(1.0, ge=1, description="lambda_0 of the Beta(lambda_0, lambda_0) prior.")


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
    if posterior.masks >= _MOST_MASKS:
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


@dataclass(frozen=True)
class BetaRule(Rule[BetaPosterior]):
    """Count masks into a posterior, whose mode is the next theta.

    Parameters
    ----------
    prior, clip
        As in `empty_posterior` and `mode`.
    participation
        Share of the clients in a round; decides when the posterior starts again, `is_reset_round`.
    """

    name: ClassVar[str] = "beta"
    number: ClassVar[int] = 1
    observes: ClassVar[Literal["mask", "change"]] = "mask"
    weighs = False
    section: ClassVar[type[Section]] = BetaSection

    prior: float = 1.0
    clip: float = 0.01
    participation: float = 1.0

    @classmethod
    def from_config(cls, run: Sections) -> Self:
        """By theta-clip, prior and participation."""
        keys = run[BetaSection]
        return cls(keys.prior, keys.theta_clip, run[RoundsSection].participation)

    def start(self, theta: NDArray[np.uint16], previous: BetaPosterior | None, server_round: int) -> BetaPosterior:
        """The prior, or what earlier rounds have counted."""
        if previous is None or is_reset_round(server_round, self.participation):
            return empty_posterior(len(theta), self.prior)
        return previous

    def fold(self, state: BetaPosterior, observed: NDArray[Any], weight: int = 1) -> BetaPosterior:
        """One mask more."""
        return fold(state, observed)

    def finish(self, state: BetaPosterior) -> tuple[NDArray[np.uint16], BetaPosterior]:
        """The posterior's mode."""
        return mode(state, self.clip), state

    def state(self, state: BetaPosterior) -> Saved:
        """Ones, and the number of masks."""
        return Saved({"ones": state.ones}, {"masks": state.masks, "prior": state.prior})

    def load_state(self, saved: Saved) -> BetaPosterior:
        """The same posterior again."""
        return BetaPosterior(saved.arrays["ones"], int(saved.values["masks"]), float(saved.values["prior"]))

    def pack_start(self, state: BetaPosterior, theta: NDArray[np.uint16]) -> bytes | None:
        """Masks counted before the round (0: it starts from the prior), prior, clip."""
        if state.masks and posterior_of(theta, state.masks, self.prior, self.clip) is None:
            return None
        return _START.pack(state.masks, self.prior, self.clip)

    @classmethod
    def read_start(cls, data: bytes, theta: NDArray[np.uint16], clients: int) -> tuple[Self, BetaPosterior]:
        """The posterior whose mode theta is."""
        if len(data) != _START.size:
            raise BadGeometry(f"a Beta posterior of {len(data)} bytes; {_START.size} expected")
        masks, prior, clip = _START.unpack(data)
        if not (1 <= prior < 2**32 and 0 < clip < 0.5 and masks + clients <= _MOST_MASKS):
            raise BadGeometry(f"{clients} payloads after {masks} masks, prior {prior}, clip {clip}")
        if masks + clients == 0 and prior == 1:
            raise BadGeometry("no payload and a flat prior: there is no theta")
        posterior = posterior_of(theta, masks, prior, clip) if masks else empty_posterior(len(theta), prior)
        if posterior is None:
            raise BadGeometry(f"the theta held is not the mode of a posterior of {masks} masks")
        return cls(prior, clip), posterior
