"""The private method, as everything else knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.config.section import Section, Sections
from common.config.shared import EvaluationSection, LimitsSection, TrainingSection
from common.data.config import DataSection
from common.errors import ConfigError
from common.methods.base import Method
from common.methods.deltamask.config import ThetaSection
from common.methods.deltamask.method import DeltaMask
from common.methods.private.config import PrivacySection
from common.methods.private.response import RESPONSES, unpack_responses
from common.models.heads.config import HeadSection
from common.wire import Header

__all__ = ["Private"]

_HEADS = ("ridge", "mean")


class Private(Method):
    """Probabilistic masks by randomised response."""

    name: ClassVar[str] = "private"
    number: ClassVar[int] = RESPONSES
    title: ClassVar[str] = "Private DeltaMask"
    summary: ClassVar[str] = "probabilistic masks by randomised response: local differential privacy of each image"
    sections: ClassVar[tuple[type[Section], ...]] = (ThetaSection, PrivacySection)
    forms: ClassVar[Mapping[str, str]] = DeltaMask.forms
    exports: ClassVar[tuple[str, ...]] = DeltaMask.exports
    fits_head: ClassVar[bool] = True

    def check(self, run: Sections) -> None:
        """Nothing that depends on images leaves a client beside what noise was added to."""
        data, training = run[DataSection], run[TrainingSection]
        wrong = {
            "validation-fraction = 0": data.validation_fraction > 0,
            "personal-test = false": run[EvaluationSection].personal_test,
            "screen-heads = false": run[LimitsSection].screen_heads,
            "augment = 0": training.augment > 0,
            f"head = {' or '.join(map(repr, _HEADS))}": run[HeadSection].head not in _HEADS,
        }
        if needed := [text for text, is_wrong in wrong.items() if is_wrong]:
            raise ConfigError(
                "run config: method = 'private' sends nothing that depends on images without noise, compares no "
                f"statistics that noise has made unlike, and takes one gradient of each image; set {', '.join(needed)}"
            )

    def coding(self, config: Mapping[str, Any]) -> str:
        """Bits for some positions, and the privacy that they have."""
        return (
            f"one bit for {100 * config.get('response-share', 0):.3g} % of the positions, epsilon "
            f"{config.get('privacy-epsilon', '?')} at delta {config.get('privacy-delta', '?')}"
        )

    def plain_fields(self, header: Header) -> dict[str, str]:
        """How many bits."""
        return {"responses": f"{header.n:,} of {header.d:,} positions, a bit each"}

    def plain_values(self, payload: bytes, header: Header) -> NDArray[np.float32]:
        """The bits, as 1 and -1."""
        bits = unpack_responses(payload, header.d, header.n, header.round, header.slot, header.base_digest)
        return np.where(bits, 1, -1).astype(np.float32)
