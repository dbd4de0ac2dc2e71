"""Keys of DeltaMask, beside those of codecs, aggregation and downlink."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field

from common.config.section import Section, Sections
from common.config.shared import RoundsSection

__all__ = ["DeltaMaskSection", "HeadTrainingSection", "frozen_head_rounds"]


class DeltaMaskSection(Section):
    """How scores start and move."""

    title: ClassVar[str] = "DeltaMask"
    under: ClassVar[str] = "method"

    learning_rate: float = Field(0.1, gt=0, description="The optimiser's step on the scores.")
    initial_theta: float = Field(
        0.95, gt=0, lt=1, description="Probability of every mask bit at the start; 1 would be the pre-trained function."
    )
    head_finetune_rounds: int = Field(
        0, ge=0, description="In so many of the last rounds clients train the head too, and the server averages it."
    )

    @classmethod
    def offers(cls) -> Iterable[type[Section]]:
        """Of rounds that train the head."""
        return (HeadTrainingSection,)

    def brings(self) -> Iterable[type[Section]]:
        """Of rounds that train the head, where there are some."""
        return self.offers() if self.head_finetune_rounds else ()


class HeadTrainingSection(Section):
    """Of rounds that train the head."""

    title: ClassVar[str] = "DeltaMask, rounds that train the head"
    under: ClassVar[str] = "head-finetune-rounds"

    head_finetune_learning_rate: float = Field(
        0.001, gt=0, description="The optimiser's step on the head in these rounds."
    )


def frozen_head_rounds(run: Sections) -> int:
    """Rounds of masked training before those that train the head too."""
    return run[RoundsSection].num_server_rounds - run[DeltaMaskSection].head_finetune_rounds
