"""FedAvg, as everything else knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.config.section import Section
from common.config.shared import CalibrationSection, OptimiserSection
from common.methods.base import Method
from common.methods.fedavg.config import WeightTrainingSection
from common.methods.fedavg.payload import WEIGHTS, unpack_weights
from common.wire import Header

__all__ = ["FedAvg"]


class FedAvg(Method):
    """The reference: float32 weights of the same blocks and the head, averaged."""

    name: ClassVar[str] = "fedavg"
    number: ClassVar[int] = WEIGHTS
    title: ClassVar[str] = "FedAvg"
    summary: ClassVar[str] = "the reference: float32 weights of the same blocks and the head, averaged"
    sections: ClassVar[tuple[type[Section], ...]] = (WeightTrainingSection, OptimiserSection, CalibrationSection)
    forms: ClassVar[Mapping[str, str]] = {"mean": "mean of weights"}

    def coding(self, config: Mapping[str, Any]) -> str:
        """Plain numbers."""
        return "float32 both ways"

    def plain_fields(self, header: Header) -> dict[str, str]:
        """All parameters."""
        return {"parameters": f"{header.d:,}: the tail's, then the head's"}

    def plain_values(self, payload: bytes, header: Header) -> NDArray[np.float32]:
        """Tail and head."""
        return unpack_weights(payload, header.d, header.round, header.slot, header.base_digest)
