"""Keys of the private method."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from common.config.section import Section

__all__ = ["PrivacySection"]


class PrivacySection(Section):
    """What a run may show of one image, and how that is spent."""

    title: ClassVar[str] = "Privacy"
    under: ClassVar[str] = "method"

    privacy_epsilon: float = Field(
        8.0,
        gt=0,
        le=1000,
        description="Epsilon of the whole run: how much more likely all that a client sends may be, as a logarithm, "
        "with one of its images in the place of another. The smaller, the more private.",
    )
    privacy_delta: float = Field(
        1e-5,
        gt=0,
        lt=0.1,
        description="Delta that goes with it: the probability with which more may be shown; well below one in the "
        "images of a site.",
    )
    privacy_head_share: float = Field(
        0.3, gt=0, lt=1, description="Share of the privacy budget that the head's statistics take; the rounds the rest."
    )
    response_share: float = Field(
        0.05,
        gt=0,
        le=1,
        description="Share of the mask bits, drawn anew in each round, that clients answer for: bits per parameter of "
        "an update.",
    )
    response_amplitude: float = Field(
        0.5,
        gt=0,
        le=1,
        description="How far a round moves a probability for which all clients answer alike. The larger, the more is "
        "learnt, and the more noise stays in theta; many clients bear more.",
    )
