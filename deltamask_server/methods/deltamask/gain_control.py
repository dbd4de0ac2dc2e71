"""The gain of a round: how exactly updates travel, by the budget that there is for them.

The steps of local training follow a schedule, whatever they cost: an update that is shrunk, or a step that is
shortened, so that it fits a budget, is another update. What a budget buys is precision. The server tells all clients
how much a change counts (`common.gain`), the same to all and, as far as it can foresee, in all rounds: a bit then buys
as much whenever and wherever it is spent, and sites that have learnt more send more (our choice; docs/algorithm.md,
"Gain").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from common.aggregation.config import AggregationSection
from common.aggregation.flips import FlipsRule, FlipsSection
from common.codecs import CODECS, codec_of
from common.codecs.config import CodecSection
from common.config.section import Sections
from common.config.shared import RoundsSection
from common.errors import BadGeometry
from common.gain import NARROWEST, gain_code, gain_of
from common.methods.deltamask.config import step_of
from common.wire import read_header

__all__ = ["GainControl"]

USUAL_BPP = 0.01
"""The default budget, for which codecs name their first gain."""
_FASTEST = 4.0
"""Largest factor between the payloads that the gains of two rounds ask for: a round cheaper than others is often
followed by a dearer one.
"""
_RESERVE = 0.1
"""Share of the budget that a round has even where earlier ones have spent all."""


@dataclass
class GainControl:
    """The gain of the next round.

    Parameters
    ----------
    first, least, largest
        The gain of the first round for a budget of `USUAL_BPP`, and the limits of all gains: of the codec
        (`common.codecs.Codec.gains`). For another budget the first gain is the one that it would buy.
    target_bpp
        Bits a parameter that payloads may have in the mean of a run; 0: the least gain always.
    growth
        A payload grows with this power of the change over the gain (`common.codecs.Codec.growth`).
    steps
        The step of local training in each round of the run; changes are expected to go with it.
    """

    first: float = 1.0
    least: float = 1.0
    largest: float = 1.0
    target_bpp: float = 0.0
    growth: float = 1.0
    steps: Sequence[float] = ()
    gain: float = field(init=False)
    total: float = field(init=False, default=0.0)
    """What the mean payloads of the rounds so far had together, in bits a parameter."""

    def __post_init__(self) -> None:
        self.gain = self.least
        if self.target_bpp:
            bought = self.first * (USUAL_BPP / self.target_bpp) ** (1 / self.growth)
            self.gain = min(max(bought, self.least), self.largest)

    @classmethod
    def from_config(cls, run: Sections) -> Self:
        """By codec and budget; where masks are counted, the gain stays 1."""
        if run[AggregationSection].aggregation != FlipsRule.name:
            return cls()
        codec, rounds = CODECS[run[CodecSection].codec], run[RoundsSection].num_server_rounds
        steps = [step_of(run, server_round) for server_round in range(1, rounds + 1)]
        return cls(*codec.gains, run[FlipsSection].target_bpp, codec.growth, steps)

    def check(self, payload: bytes) -> None:
        """Raise BadGeometry if a payload's changes count for more than its codec's may in this round."""
        first, least, largest = codec_of(payload).gains
        most = gain_code(min(max(self.gain * first / self.first * NARROWEST, least), largest))
        code = read_header(payload)[0].gain
        if code > most:
            raise BadGeometry(f"changes that count {gain_of(code):.3g} times; at most {gain_of(most):.3g}")

    def spent(self, bpp: float, server_round: int) -> None:
        """Hear what the mean payload of a round had, in bits a parameter, and set the gain of those to come."""
        self.total += bpp
        now, ahead = self.steps[server_round - 1 : server_round], self.steps[server_round:]
        if self.target_bpp and bpp > 0 and ahead:
            expected = bpp * sum((step / now[0]) ** self.growth for step in ahead)
            left = self.target_bpp * len(self.steps) - self.total
            factor = expected / max(left, _RESERVE * self.target_bpp * len(ahead))
            gain = self.gain * min(max(factor, 1 / _FASTEST), _FASTEST) ** (1 / self.growth)
            self.gain = min(max(gain, self.least), self.largest)
