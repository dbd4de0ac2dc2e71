"""LotteryFL, as everything else knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.config.section import Section
from common.config.shared import OptimiserSection
from common.methods.base import Method
from common.methods.fedavg.config import WeightTrainingSection
from common.methods.hidenseek.config import DensitySection
from common.methods.lotteryfl.config import LotterySection
from common.methods.lotteryfl.ticket import TICKETS, unpack_ticket
from common.wire import Header

__all__ = ["LotteryFL"]


class LotteryFL(Method):
    """Float32 weights, which each client prunes for itself."""

    name: ClassVar[str] = "lotteryfl"
    number: ClassVar[int] = TICKETS
    title: ClassVar[str] = "LotteryFL"
    summary: ClassVar[str] = "a reference too: float32 weights, which each client prunes for itself"
    sections: ClassVar[tuple[type[Section], ...]] = (
        WeightTrainingSection,
        OptimiserSection,
        DensitySection,
        LotterySection,
    )
    forms: ClassVar[Mapping[str, str]] = {"mean": "mean of weights"}

    def coding(self, config: Mapping[str, Any]) -> str:
        """Plain numbers, of some weights."""
        return "float32 both ways, of what each client keeps"

    def plain_fields(self, header: Header) -> dict[str, str]:
        """All parameters, and those kept."""
        share = f", {100 * header.n / header.d:.3g} % of them" if header.d else ""
        return {
            "parameters": f"{header.d:,}: the tail's, then the head's",
            "kept": f"{header.n:,}{share}, and a bit for each parameter",
        }

    def plain_values(self, payload: bytes, header: Header) -> NDArray[np.float32]:
        """What the client keeps."""
        return unpack_ticket(payload, header.d, header.round, header.slot, header.base_digest)[1]
