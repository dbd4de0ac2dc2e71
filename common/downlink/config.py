"""The key that chooses how theta travels."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from common.config.section import Section

__all__ = ["DownlinkSection"]


class DownlinkSection(Section):
    """How theta travels."""

    title: ClassVar[str] = "Downlink"
    under: ClassVar[str] = "method"

    downlink: Literal["float32", "quantised", "exact", "relay"] = Field(
        "exact",
        description="How theta travels to clients that hold the version before: `exact` sends what changed, `relay` "
        "the clients' payloads, which shows them each other's masks. Others get the `quantised` theta.",
    )
