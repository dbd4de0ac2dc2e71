"""How much one client may move theta: what bounds liars, and costs honest clients little.

A decoder refuses what is malformed. What is left to a client that lies is a well-formed payload of another theta than
it has learnt. Its influence on ``theta += sum_k w_k c_k / sum_k w_k`` has three handles, and each has a rule:

* **the weight** w_k, which comes from a number of examples that nobody can check: at most `Limits.examples` times the
  median of the round;
* **the amount** sum |c_k|: who moves more than `Limits.amount` times the median of those that moved anything counts as
  much less as he is above it, and for nothing below `_LEAST`. A codec that draws masks by uniforms of its own moves
  everything by chance: that much is taken off first (`common.codecs.Codec.draws_alone`), and what is left is not told
  apart from its standard deviation;
* **the direction**: c_k is compared with what all others say together. If the signs of c_k had nothing to do with
  theirs, ``sum_j c_kj R_j`` with R the others' sum would have mean 0 and variance ``sum_j c_kj^2 R_j^2``. In units of
  that standard deviation it is the client's *agreement*. Honest clients have a positive one, or none to speak of where
  their classes are others; who pushes against the rest by more than chance is left out.

Factors are powers of two, so that sums stay integers of few different values (`common.aggregation.flips`), and a round
in which nobody stands out is bit for bit what it is without any of this. All three are our choice; the first two are
norm clipping (Sun et al. 2019, arXiv 1911.07963), the third is akin to sign agreement (Ozdayi et al. 2021, arXiv
2007.03767), with a variance that fits sparse flips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.theta import ONE
from common.verdict import Verdict, many_examples, worst_first

__all__ = ["Limits", "Said", "Sparse", "screen", "sparse"]

_FEW = 100 * ONE
"""An amount that is never too large for a change: a hundred flips. Late in a run half of the clients may have none."""
_LEAST = 1 / 16
"""Who would count for less is left out: a dense change costs everybody's downlink as much as if it counted in full."""


@dataclass(frozen=True)
class Limits:
    """See above; 0 leaves a rule out."""

    examples: float = 4.0
    amount: float = 8.0
    agreement: float = 4.0
    """Standard deviations below zero."""


class Sparse(NamedTuple):
    """A change of theta."""

    at: NDArray[np.int64]
    """Positions that change, ascending."""
    values: NDArray[np.int32]
    """By how much, in 1/65536; not 0."""
    d: int
    """Length of theta."""

    @property
    def amount(self) -> int:
        """``sum |c|``, in 1/65536."""
        return int(np.abs(self.values).sum(dtype=np.int64))


class Said(NamedTuple):
    """One client's part of a round."""

    change: Callable[[], Sparse]
    """Gives it, perhaps by decoding it again."""
    examples: int
    """As the client claims."""
    amount: float
    """Of its change, in 1/65536, less what chance alone would bring; not below what that varies by."""


def sparse(change: NDArray[np.int32]) -> Sparse:
    """What is not 0 of a change, int32 ``(d,)`` in 1/65536."""
    at = np.flatnonzero(change)
    return Sparse(at, change[at], len(change))


def screen(said: Mapping[int, Said], limits: Limits, weight: Callable[[int], int]) -> dict[int, Verdict]:
    """Judge the clients of a round.

    Parameters
    ----------
    said
        By slot.
    limits
        What is allowed.
    weight
        What a number of examples counts for.

    Returns
    -------
    By slot.
    """
    verdicts = {slot: _bounded(slot, said, limits, weight) for slot in sorted(said)}
    if not limits.agreement or len(said) < 3:
        return verdicts
    # Nobody's direction is to speak louder than the median client's, however far he went in it.
    usual = median([one.amount for one in said.values() if one.amount] or [0])
    weights = {
        slot: weight(one.examples) * verdicts[slot].factor * min(1.0, usual / max(1, one.amount))
        for slot, one in said.items()
    }

    def judge(slots: list[int]) -> dict[int, float]:
        return _agreements({slot: said[slot] for slot in slots if weights[slot] and said[slot].amount}, weights)

    left_out = worst_first(said.keys(), (), judge, lambda worst, found: found[worst] <= -limits.agreement)
    return verdicts | {
        slot: Verdict(0.0, f"against the others: {agreement:.1f} standard deviations")
        for slot, agreement in left_out.items()
    }


def _bounded(slot: int, said: Mapping[int, Said], limits: Limits, weight: Callable[[int], int]) -> Verdict:
    counts, amounts = [one.examples for one in said.values()], [one.amount for one in said.values() if one.amount]
    one, reasons, factor = said[slot], [], 1.0
    usual = weight(round(limits.examples * median(counts))) if limits.examples else 0
    if usual and weight(one.examples) > usual:
        factor *= usual / weight(one.examples)  # of powers of two, or 1
        reasons.append(many_examples(one.examples, median(counts)))
    most = limits.amount * max(_FEW, median(amounts or [0]))
    if limits.amount and one.amount > most:
        less = 2.0 ** -math.ceil(math.log2(one.amount / most))
        factor *= less if less >= _LEAST else 0.0
        reasons.append(f"{one.amount / (most / limits.amount):.1f} times the usual change")
    return Verdict(factor, "; ".join(reasons))


def _agreements(said: Mapping[int, Said], weights: Mapping[int, float]) -> dict[int, float]:
    """Of each client with all others, in standard deviations."""
    total, found = np.zeros(0), {}
    for slot in sorted(said):
        change = said[slot].change()
        total = total if len(total) else np.zeros(change.d)
        total[change.at] += weights[slot] * change.values
    for slot in sorted(said):
        change = said[slot].change()
        mine = change.values.astype(np.float64)
        products = mine * (total[change.at] - weights[slot] * mine)
        spread = math.sqrt(float(products @ products))
        found[slot] = float(products.sum()) / spread if spread else 0.0
    return found
