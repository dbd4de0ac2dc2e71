"""Keys of LotteryFL."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from common.config.section import Section

__all__ = ["LotterySection"]


class LotterySection(Section):
    """When, and how much, a client prunes."""

    title: ClassVar[str] = "LotteryFL"
    under: ClassVar[str] = "method"

    lottery_accuracy: float = Field(
        0.5,
        ge=0,
        le=1,
        description="`lotteryfl`: a client prunes when the global weights that it keeps are better than this on its "
        "images: those held out, or those it trains on where there are none.",
    )
    lottery_step: float = Field(
        0.2, gt=0, lt=1, description="`lotteryfl`: share of its weights that a client prunes at a time."
    )
