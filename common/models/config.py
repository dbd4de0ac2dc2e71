"""Keys of the frozen network."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from common.config.section import Section

__all__ = ["BackboneSection"]


class BackboneSection(Section):
    """Which network, and how much of it is trained."""

    title: ClassVar[str] = "Backbone"

    backbone: str = Field(
        "letters-vit",
        min_length=1,
        description="`letters-vit` (embedded), `lenet`, `conv4` or `conv6` (random weights), a preset, a model of "
        "timm, or `open_clip:MODEL/TAG`; `deltamask model` lists the presets, `deltamask model NAME` shows one.",
    )
    weights: str = Field(
        "default",
        min_length=1,
        description="Weights of the backbone: `default` (embedded for letters-vit, `random` for lenet, conv4 and "
        "conv6, else from the Hugging Face hub or its cache), `random:SEED` (`random` is seed 0), or the path of a "
        "file: .safetensors, or .pth, .pt, .bin or .ckpt as torch.save writes them.",
    )
    image_size: int = Field(
        0,
        ge=0,
        le=2048,
        description="Side of the input images; 0 is the preset's or backbone's own. Position embeddings are resized.",
    )
    masked_blocks: int = Field(
        5,
        ge=0,
        le=1000,
        description="Masked blocks, counted from the last; 0 is all. Every Linear and Conv2d weight in them has a "
        "score.",
    )
