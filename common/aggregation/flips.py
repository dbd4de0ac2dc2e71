"""``flips``: theta moves by the mean of what clients moved, m_k - m_g, weighted by their examples.

In Bayesian words: under ``beta`` a client's mask m_k is one observation of a weight's probability. The mask m_g, drawn
from the old theta with the *same* uniforms, is an observation whose expectation everybody knows. Taking it away as a
control variate leaves the expectation as it is, E[m_k - m_g] = theta_k - theta, and nearly all of the variance goes:
theta (1 - theta) of a mask becomes at most |theta_k - theta| of a flip. docs/algorithm.md derives it.

So theta stays exactly where it was if nobody has learnt anything, where a mean of fresh masks wanders (genetic drift,
Doerr and Zheng, arXiv 1910.14389).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.aggregation.base import Change, Rule
from common.config.section import Section, Sections
from common.errors import BadGeometry
from common.saved import Saved
from common.theta import ONE

__all__ = ["MOST_EXAMPLES", "Changes", "FlipsRule", "FlipsSection", "moved", "power_of_two"]

_START = struct.Struct("<?H")
MOST_EXAMPLES = 1 << 24
"""Examples that one client counts for at most: sums of 65,535 clients then fit 64 bits."""


class FlipsSection(Section):
    """Of flips."""

    title: ClassVar[str] = "Aggregation `flips`"
    under: ClassVar[str] = "aggregation"

    client_weights: Literal["examples", "equal"] = Field(
        "examples",
        description="Whether a client counts by its number of images, rounded to a power of two, or once. Few "
        "different weights make few different steps, which cost less on the way down and say less of who took which.",
    )
    target_bpp: float = Field(
        0.01,
        ge=0,
        le=32,
        description="Budget of updates, in bits per parameter, in the mean of a run: the server sets the gain of the "
        "next rounds, how much a change counts, by what payloads had so far. What needs less has less. 0: no budget.",
    )
    flips_clip: float = Field(
        0.01,
        gt=2**-16,
        lt=0.5,
        description="Aggregated probabilities stay in [clip, 1 - clip], so that scores stay finite.",
    )


class Changes(NamedTuple):
    """What has been folded in a round."""

    theta: NDArray[np.uint16]
    """Before the round."""
    sums: NDArray[np.int64]
    """Weighted sum of the changes, in 1/65536, ``(d,)``."""
    total: int
    """Sum of the weights."""


@dataclass(frozen=True)
class FlipsRule(Rule[Changes]):
    """Add the weighted mean of the clients' changes to theta.

    Parameters
    ----------
    weighs
        By examples; otherwise each client counts once.
    clip
        On the 16-bit grid: theta stays in [clip, 65536 - clip].
    """

    name: ClassVar[str] = "flips"
    number: ClassVar[int] = 2
    observes: ClassVar[Literal["mask", "change"]] = "change"
    section: ClassVar[type[Section]] = FlipsSection

    weighs: bool = field(default=True)
    clip: int = round(0.01 * ONE)

    @classmethod
    def from_config(cls, run: Sections) -> Self:
        """By client-weights and flips-clip."""
        keys = run[FlipsSection]
        return cls(keys.client_weights == "examples", round(keys.flips_clip * ONE))

    def weighing(self) -> Self:
        """The same, by numbers of examples."""
        return replace(self, weighs=True)

    def start(self, theta: NDArray[np.uint16], previous: Changes | None, server_round: int) -> Changes:
        """Nothing folded yet; nothing is remembered of earlier rounds but theta."""
        return Changes(theta, np.zeros(len(theta), np.int64), 0)

    def fold(self, state: Changes, observed: NDArray[Any], weight: int = 1) -> Changes:
        """Add one client's change, int32 ``(d,)`` in 1/65536."""
        weight = power_of_two(min(weight, MOST_EXAMPLES)) if self.weighs else 1
        sums = np.multiply(observed, np.int64(weight), dtype=np.int64)
        sums += state.sums
        return Changes(state.theta, sums, state.total + weight)

    def finish(self, state: Changes) -> tuple[NDArray[np.uint16], Changes]:
        """Theta plus the mean change, clipped."""
        return moved(state.theta, *self.change(state)), Changes(state.theta[:0], state.sums[:0], 0)

    def change(self, state: Changes) -> Change:
        """The mean change; halves go to even numbers."""
        return Change(np.rint(state.sums / max(1, state.total)).astype(np.int32), self.clip)

    def state(self, state: Changes) -> Saved:
        """Theta, sums and total."""
        return Saved({"theta": state.theta, "sums": state.sums}, {"total": state.total})

    def load_state(self, saved: Saved) -> Changes:
        """The same again."""
        return Changes(saved.arrays["theta"], saved.arrays["sums"], int(saved.values["total"]))

    def pack_start(self, state: Changes, theta: NDArray[np.uint16]) -> bytes | None:
        """The rule's parameters; theta is all that it starts from."""
        return _START.pack(self.weighs, self.clip)

    @classmethod
    def read_start(cls, data: bytes, theta: NDArray[np.uint16], clients: int) -> tuple[Self, Changes]:
        """The inverse of `pack_start`."""
        if len(data) != _START.size or data[0] > 1:
            raise BadGeometry(f"a start of {len(data)} bytes; {_START.size} expected")
        weighs, clip = _START.unpack(data)
        if not 0 < clip < ONE // 2:
            raise BadGeometry(f"theta clipped at {clip} / {ONE}")
        rule = cls(weighs, clip)
        return rule, rule.start(theta, None, 1)


def power_of_two(n: int) -> int:
    """The power of two that is nearest to n, by their ratio; n is at least 1."""
    low = 1 << (n.bit_length() - 1)
    return low if n * n <= 2 * low * low else 2 * low


def moved(theta: NDArray[np.uint16], change: NDArray[np.int32], clip: int) -> NDArray[np.uint16]:
    """``theta + change`` on the 16-bit grid, kept in [clip, 65536 - clip] where it changes at all."""
    after = np.clip(theta.astype(np.int32) + change, clip, ONE - clip).astype(np.uint16)
    return np.where(change == 0, theta, after)
