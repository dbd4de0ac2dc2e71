"""Keys of methods that train float32 weights."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from common.config.section import Section

__all__ = ["WeightTrainingSection"]


class WeightTrainingSection(Section):
    """How weights are trained."""

    title: ClassVar[str] = "FedAvg and LotteryFL"
    under: ClassVar[str] = "method"

    weight_learning_rate: float = Field(
        1e-4, gt=0, description="The optimiser's step on weights: `fedavg`, `lotteryfl`."
    )
