"""The step of local training, by what its updates cost: a budget of the optimisation, not of a finished update.

An update that is too long for its budget could be shrunk before it is sent; but then the client has gone somewhere that
it does not send, and has paid for it in drift. So the server says which step to take, the same to all, and corrects it
by what the payloads of the last round had on average. It never grows beyond sixteen times the run config's: a
federation that has learnt all there is to learn is not driven on because it has bits left (our choice).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from common.config.section import Sections
from common.methods.deltamask.config import AdamSection, DeltaMaskSection, GradientStepsSection

__all__ = ["StepControl"]

_FASTEST = 2.0
"""Largest factor between the steps of two rounds."""
_LARGEST = 16.0
"""Largest factor between a step and the first one."""


@dataclass
class StepControl:
    """The step of the next round.

    Parameters
    ----------
    first
        The run config's step.
    target_bpp
        Bits a parameter that the mean payload of a round is to have; 0: the step stays as it is.
    growth
        A payload grows with this power of the step (`common.codecs.Codec.growth`).
    """

    first: float
    target_bpp: float = 0.0
    growth: float = 1.0
    step: float = field(init=False)

    def __post_init__(self) -> None:
        self.step = self.first

    @classmethod
    def from_config(cls, run: Sections, growth: float) -> Self:
        """By the optimiser's section."""
        if run[DeltaMaskSection].score_optimiser == "adam":
            return cls(run[AdamSection].learning_rate)
        keys = run[GradientStepsSection]
        return cls(keys.score_step, keys.target_bpp, growth)

    def spent(self, bpp: float) -> None:
        """Hear what the mean payload of a round had, in bits a parameter."""
        if self.target_bpp and bpp > 0:
            factor = (self.target_bpp / bpp) ** (1 / self.growth)
            self.step = min(_LARGEST * self.first, self.step * min(max(factor, 1 / _FASTEST), _FASTEST))
