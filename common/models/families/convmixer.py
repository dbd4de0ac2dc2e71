"""timm's ConvMixer: its blocks are depthwise and pointwise convolutions, which are masked as Linear weights are."""

from __future__ import annotations

import torch
from timm.models.convmixer import ConvMixer
from torch import nn

from common.models.families.model_split import ModelSplit, cut, numbered_blocks

__all__ = ["split_convmixer"]


class _Tail(nn.Module):
    """The masked blocks and pooling."""

    def __init__(self, mixer: ConvMixer, blocks: int) -> None:
        super().__init__()
        self.blocks = mixer.blocks[blocks:]
        self.pool = mixer.forward_head

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.pool(self.blocks(maps))
        return features


def split_convmixer(mixer: ConvMixer, masked_blocks: int) -> ModelSplit:
    """Split a ConvMixer; activations are maps ``(n, width, side, side)``."""
    blocks = cut(numbered_blocks("blocks", mixer.blocks), masked_blocks)
    first = len(mixer.blocks) - len(blocks)
    prefix = nn.Sequential(mixer.stem, mixer.blocks[:first])
    return ModelSplit(prefix, _Tail(mixer, first), blocks, len(mixer.blocks), int(mixer.head_hidden_size))
