"""A round folded again without what liars would have made of it (`common.aggregation.screening`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from common.aggregation import Rule, fold_payload, observe
from common.aggregation.config import ScreeningSection
from common.aggregation.flips import MOST_EXAMPLES, power_of_two
from common.aggregation.screening import Limits, Said, Sparse, screen, sparse
from common.codecs import SharedState, codec_of
from common.config.section import Sections
from common.config.shared import LimitsSection
from common.downlink import Relayed
from common.gain import gain_of
from common.theta import ONE
from common.verdict import Verdict
from common.wire import read_header

__all__ = ["Defence", "Refolded"]

_SPARSE = 100
"""Changes of no more than one position in so many are kept: of a hundred clients not much more than theta has."""


class Refolded(NamedTuple):
    """What counts of a round."""

    rule: Rule[Any]
    state: Any
    """Of the rule."""
    relayed: dict[int, Relayed]
    """Slot to payload, with what it counts for in the place of its examples."""


@dataclass
class Defence:
    """Measures updates as they come, and judges them when all have come.

    Parameters
    ----------
    limits
        What is allowed.
    """

    limits: Limits = field(default_factory=lambda: Limits(0, 0, 0))
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    """Of the newest round, by slot; those that do not count in full."""
    _amounts: dict[int, float] = field(default_factory=dict)
    _kept: dict[int, Sparse] = field(default_factory=dict)  # so few positions that they need not be decoded again

    @classmethod
    def from_config(cls, run: Sections) -> Self:
        """By the run's limits."""
        keys = run[ScreeningSection]
        return cls(Limits(run[LimitsSection].most_examples, keys.most_change, keys.most_disagreement))

    def begin_round(self) -> None:
        """Forget the round before."""
        self.verdicts, self._amounts, self._kept = {}, {}, {}

    def hear(self, slot: int, payload: bytes, rule: Rule[Any], observed: NDArray[Any], shared: SharedState) -> None:
        """Measure an update that was accepted.

        Parameters
        ----------
        slot, payload
            Whose it is, and as it came.
        rule, observed
            What the rule has folded of it.
        shared
            What both sides know of the slot.
        """
        if self.limits.amount or self.limits.agreement:
            found = self._sparse(rule, observed, shared)
            mean, deviation = by_chance(rule, payload, shared, found.at)
            self._amounts[slot] = max(deviation, found.amount - mean)
            if len(found.at) <= found.d // _SPARSE:
                self._kept[slot] = found

    def refold(
        self, rule: Rule[Any], start: Any, relayed: Mapping[int, Relayed], shared: Callable[[int], SharedState]
    ) -> Refolded | None:
        """Judge the round, and fold again what counts; None where everything counts in full.

        Parameters
        ----------
        rule, start
            How, and the state before the first reply.
        relayed
            Slot to accepted payload.
        shared
            What both sides know of a slot.
        """
        amounts = self._amounts
        said = {
            slot: Said(partial(self._change, slot, rule, sent.payload, shared), sent.examples, amounts.get(slot, 0.0))
            for slot, sent in relayed.items()
        }
        weight = _counted if rule.weighs else lambda examples: 1
        verdicts = screen(said, self.limits, weight)
        weighing = rule.weighing()
        if weighing is None:  # nobody can count for less, and not for nothing
            verdicts = {slot: one if one.factor == 1 else one._replace(factor=0.0) for slot, one in verdicts.items()}
        rule = weighing or rule
        self.verdicts = {slot: one for slot, one in verdicts.items() if one.factor < 1}
        if not self.verdicts:
            return None
        counts = {slot: weight(relayed[slot].examples) * one.factor for slot, one in verdicts.items() if one.factor}
        scale = min(1 / min(1.0, *counts.values()), MOST_EXAMPLES / max(counts.values()))
        state, kept = start, {}
        for slot, count in counts.items():
            kept[slot] = Relayed(relayed[slot].payload, max(1, round(count * scale)))
            state = fold_payload(rule, state, kept[slot].payload, shared(slot), kept[slot].examples)
        return Refolded(rule, state, kept)

    def _change(self, slot: int, rule: Rule[Any], payload: bytes, shared: Callable[[int], SharedState]) -> Sparse:
        kept = self._kept.get(slot)
        return self._sparse(rule, observe(rule, payload, shared(slot)), shared(slot)) if kept is None else kept

    @staticmethod
    def _sparse(rule: Rule[Any], observed: NDArray[Any], shared: SharedState) -> Sparse:
        """The change; of a mask its flips."""
        if rule.observes == "mask":
            observed = (observed.astype(np.int32) - shared.mask()) * ONE
        return sparse(observed)


def by_chance(rule: Rule[Any], payload: bytes, shared: SharedState, at: NDArray[np.int64]) -> tuple[float, float]:
    """How much of theta an update moves that nothing was learnt for, in 1/65536, and its standard deviation.

    Parameters
    ----------
    rule
        What it observes.
    payload, shared
        As it came, and what both sides know of the slot.
    at
        Positions that it moves. A sample says ``gain * (m - theta)`` at all of its layers that have moved, so that
        ``|m - theta|`` is theta with a probability of 1 - theta and the other way round; a mask is another one than the
        server's with a probability of ``2 theta (1 - theta)``, anywhere.
    """
    if not codec_of(payload).draws_alone:
        return 0.0, 0.0
    theta = shared.theta / ONE
    if rule.observes == "mask":
        differs = 2 * theta * (1 - theta)
        return ONE * float(differs.sum()), ONE * math.sqrt(float((differs * (1 - differs)).sum()))
    theta, gain = theta[at], gain_of(read_header(payload)[0].gain)
    half = theta * (1 - theta)
    return ONE * gain * 2 * float(half.sum()), ONE * gain * math.sqrt(float((half - 4 * half**2).sum()))


def _counted(examples: int) -> int:
    return power_of_two(min(examples, MOST_EXAMPLES))
