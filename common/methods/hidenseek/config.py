"""Keys of HideNseek."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from common.codecs import available_codecs
from common.config.section import Section

__all__ = ["DensitySection", "HideNseekSection", "SignSection"]


class DensitySection(Section):
    """How much pruning leaves, by whomever it is done."""

    title: ClassVar[str] = "Pruning"
    under: ClassVar[str] = "method"

    density: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of the weights that pruning leaves; 1 prunes nothing. `hidenseek`, `lotteryfl`.",
    )


class HideNseekSection(Section):
    """How the network is pruned, and how signs are learnt."""

    title: ClassVar[str] = "HideNseek"
    under: ClassVar[str] = "method"

    prune_passes: int = Field(
        100, ge=1, le=10_000, description="Passes of SynFlow; a single one empties layers at low densities."
    )
    sign_magnitudes: Literal["own", "constant"] = Field(
        "own", description="Sizes of the weights that signs multiply: their own, or one for each layer."
    )
    sign_learning_rate: float = Field(0.003, gt=0, description="The optimiser's step on scores, under `hidenseek`.")
    score_init: float = Field(
        0.1, gt=0, le=100, description="Scores start each round with the global sign and a size up to this."
    )
    sign_weighting: Literal["examples", "clients"] = Field(
        "examples", description="What a client's signs count by: its examples, or once."
    )
    upload: Literal["signs", "scores"] = Field(
        "signs", description="What `hidenseek` clients send; `scores`, in float32, is an ablation."
    )
    local_only: bool = Field(
        False, description="The control of `hidenseek`: clients go on from their own signs, and send nothing."
    )

    @model_validator(mode="after")
    def _control_of_signs(self) -> Self:
        if self.local_only and self.upload != "signs":
            raise ValueError("local-only = true: it is the control of upload = 'signs'")
        return self

    @classmethod
    def offers(cls) -> Iterable[type[Section]]:
        """Of signs that travel."""
        return (SignSection,)

    def brings(self) -> Iterable[type[Section]]:
        """Of signs that travel, where they do."""
        return self.offers() if self.upload == "signs" else ()


class SignSection(Section):
    """How signs travel, and how the server decides between them."""

    title: ClassVar[str] = "HideNseek, signs"
    under: ClassVar[str] = "upload"

    sign_codec: str = Field(
        "exact",
        description="How flips of signs travel, where the signs themselves are not shorter: `exact` loses nothing, "
        "`fuse8` flips some by mistake.",
    )
    sign_momentum: float = Field(
        0.0, ge=0, lt=1, description="Share of the old moving average of signs in the new one; 0 has no memory."
    )
    sign_turn_share: float = Field(
        0.5,
        ge=0,
        le=0.5,
        description="A global sign turns where more than this share of the average is against it; 0.5 is the majority. "
        "Lower for many clients with different classes.",
    )

    @field_validator("sign_codec")
    @classmethod
    def _keeps_signs(cls, name: str) -> str:
        names = available_codecs(samples=False)  # a sample of a sign is no sign
        if name not in names:
            raise PydanticCustomError("codec", "choose one of {names}", {"names": ", ".join(names)})
        return name
