"""The key that chooses the head."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from common.config.section import Section
from common.models.heads import HEADS

__all__ = ["HeadSection"]


class HeadSection(Section):
    """How the head comes about."""

    title: ClassVar[str] = "Head"

    head: str = Field(
        "ridge",
        description="How the head is fitted in the head round: `ridge` regression in closed form (the same for every "
        "split of the data), the paper's average of local probes (`linear-probe`), or the nearest class `mean`. "
        "`random` is not fitted: for networks trained from scratch, by `hidenseek` (signs on it too) or `fedavg`.",
    )

    @field_validator("head")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in HEADS:
            raise PydanticCustomError("head", "choose one of {names}", {"names": ", ".join(HEADS)})
        return name

    @classmethod
    def offers(cls) -> Iterable[type[Section]]:
        """Of every kind of head."""
        return [section for kind in HEADS.values() for section in kind.sections]

    def brings(self) -> Iterable[type[Section]]:
        """Of the head."""
        return HEADS[self.head].sections
