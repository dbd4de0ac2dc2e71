"""HideNseek, as everything else knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.config.section import Section
from common.config.shared import OptimiserSection
from common.methods.base import Method
from common.methods.fedavg.payload import unpack_weights
from common.methods.hidenseek.config import DensitySection, HideNseekSection
from common.methods.hidenseek.signs import SIGNS
from common.wire import PLAIN, Header

__all__ = ["HideNseek"]


class HideNseek(Method):
    """Signs on a network that the server has pruned."""

    name: ClassVar[str] = "hidenseek"
    number: ClassVar[int] = SIGNS
    title: ClassVar[str] = "HideNseek"
    summary: ClassVar[str] = "signs on a network that the server has pruned"
    sections: ClassVar[tuple[type[Section], ...]] = (DensitySection, HideNseekSection, OptimiserSection)
    forms: ClassVar[Mapping[str, str]] = {"mean": "global signs"}
    exports: ClassVar[tuple[str, ...]] = ("signs",)

    def coding(self, config: Mapping[str, Any]) -> str:
        """Bits, the codec of flips, or the ablations."""
        if config.get("local-only"):
            return "nothing: clients go on from their own signs"
        if config.get("upload") == "signs":
            return f"signs as bits or by {config.get('sign-codec', '?')}"
        return "float32 both ways"

    def plain_fields(self, header: Header) -> dict[str, str] | None:
        """Scores, where these travel in the place of signs."""
        return {"parameters": f"{header.d:,}"} if header.codec == PLAIN else None

    def plain_values(self, payload: bytes, header: Header) -> NDArray[np.float32]:
        """Scores of the kept weights."""
        return unpack_weights(payload, header.d, header.round, header.slot, header.base_digest, self.number)
