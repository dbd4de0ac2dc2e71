"""The key that chooses an aggregation rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from common.aggregation import RULES
from common.config.section import Section

__all__ = ["AggregationSection"]


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
