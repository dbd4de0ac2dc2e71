"""The key that chooses an aggregation rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from common.aggregation import RULES
from common.config.section import Section

__all__ = ["AggregationSection", "ScreeningSection"]


class ScreeningSection(Section):
    """What one client may do to a round's masks."""

    title: ClassVar[str] = "What one client may do to the masks"
    under: ClassVar[str] = "method"

    most_change: float = Field(
        8.0,
        ge=0,
        description="A client that changes more than this times the median of a round counts for as much less, and for "
        "nothing where that is less than a sixteenth; 0: no limit.",
    )
    most_disagreement: float = Field(
        4.0,
        ge=0,
        description="A client whose change points against that of all others by more than so many standard deviations "
        "is left out of a round, at most a third of the clients; 0: nobody is.",
    )


class AggregationSection(Section):
    """How masks become the next theta."""

    title: ClassVar[str] = "Aggregation"
    under: ClassVar[str] = "method"

    aggregation: str = Field(
        "flips",
        description="How updates become the next theta: `flips`, theta plus the mean of what clients moved; `beta`, "
        "the paper's Beta posterior of their masks.",
    )

    @field_validator("aggregation")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in RULES:
            raise PydanticCustomError("aggregation", "choose one of {names}", {"names": ", ".join(RULES)})
        return name

    @classmethod
    def offers(cls) -> Iterable[type[Section]]:
        """Of every rule."""
        return [rule.section for rule in RULES.values()]

    def brings(self) -> Iterable[type[Section]]:
        """Of the rule."""
        return (RULES[self.aggregation].section,)
