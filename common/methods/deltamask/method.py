"""DeltaMask, as everything else knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from common.aggregation.config import AggregationSection, ScreeningSection
from common.aggregation.flips import FlipsRule
from common.codecs.base import DeltaSection
from common.codecs.config import CodecSection
from common.config.section import Section, Sections
from common.config.shared import CalibrationSection, RoundsSection
from common.downlink.config import DownlinkSection
from common.errors import ConfigError
from common.methods.base import Method
from common.methods.deltamask.config import DeltaMaskSection, ThetaSection, frozen_head_rounds
from common.wire import MASKS

__all__ = ["DeltaMask"]


class DeltaMask(Method):
    """Probabilistic masks on frozen weights."""

    name: ClassVar[str] = "deltamask"
    number: ClassVar[int] = MASKS
    title: ClassVar[str] = "DeltaMask"
    summary: ClassVar[str] = "probabilistic masks on the frozen weights"
    sections: ClassVar[tuple[type[Section], ...]] = (
        ThetaSection,
        DeltaMaskSection,
        CalibrationSection,
        CodecSection,
        AggregationSection,
        ScreeningSection,
        DownlinkSection,
    )
    forms: ClassVar[Mapping[str, str]] = {
        "mean": "mean mask",
        "sample": "sampled mask",
        "threshold": "thresholded mask",
    }
    exports: ClassVar[tuple[str, ...]] = ("mean", "mask")
    fits_head: ClassVar[bool] = True

    def check(self, run: Sections) -> None:
        """The head is trained in the last of the rounds that there are; flips are not dropped where each counts."""
        kappa = run[DeltaSection]
        if run[AggregationSection].aggregation == FlipsRule.name and kappa.kappa_final < 1:
            raise ConfigError(
                f"run config: kappa = {kappa.kappa}, kappa-final = {kappa.kappa_final}: dropping flips by their size "
                "biases their mean; leave both at 1, or set aggregation = 'beta', the paper's"
            )
        if frozen_head_rounds(run) < 0:
            raise ConfigError(
                f"run config: head-finetune-rounds = {run[DeltaMaskSection].head_finetune_rounds} is above "
                f"num-server-rounds = {run[RoundsSection].num_server_rounds}; the head is trained in the last of them"
            )

    def coding(self, config: Mapping[str, Any]) -> str:
        """The codec of the uplink, and the form of the downlink."""
        return f"codec {config.get('codec', '?')}, downlink {config.get('downlink', '?')}"
