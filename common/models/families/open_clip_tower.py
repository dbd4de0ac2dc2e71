"""Image towers of open_clip: its own Vision Transformer, towers that are models of timm, and CLIP's ResNets."""

from __future__ import annotations

from collections.abc import Callable

import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import nn

from common.models.families.model_split import ModelSplit, cut, numbered_blocks
from common.models.families.sequence import split_sequence
from common.models.input_spec import InputSpec

__all__ = ["split_open_clip"]


class _Prefix(nn.Module):
    """Patch embedding and the blocks below the masked ones."""

    def __init__(self, vit: VisionTransformer, blocks: int) -> None:
        super().__init__()
        self.embed = vit._embeds  # bound method: patches, class token, position embedding, norm
        self.blocks = vit.transformer.resblocks[:blocks]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.embed(images)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


class _Tail(nn.Module):
    """The masked blocks, final norm, pooling, and the projection to the space that CLIP shares with text."""

    def __init__(self, vit: VisionTransformer, blocks: int) -> None:
        super().__init__()
        self.blocks, self.proj = vit.transformer.resblocks[blocks:], vit.proj
        self.pool = vit._pool

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        features: torch.Tensor = self.pool(tokens)[0]
        return features if self.proj is None else features @ self.proj


def split_open_clip(
    tower: nn.Module,
    spec: InputSpec,
    masked_blocks: int,
    split_model: Callable[[nn.Module, InputSpec, int], ModelSplit],
) -> ModelSplit:
    """Split an image tower; activations are those of its trunk.

    Parameters
    ----------
    tower, spec, masked_blocks
        As for `common.models.families.split_model`.
    split_model
        That function, for towers that wrap a model of timm.
    """
    if isinstance(tower, TimmModel):
        trunk = split_model(tower.trunk, spec, masked_blocks)
        blocks = tuple((f"trunk.{name}", block) for name, block in trunk.blocks)
        linears = [module for module in tower.head.modules() if isinstance(module, nn.Linear)]
        features = linears[-1].out_features if linears else trunk.features
        return ModelSplit(trunk.prefix, nn.Sequential(trunk.tail, tower.head), blocks, trunk.depth, features)
    if not isinstance(tower, VisionTransformer):
        return split_sequence(tower, spec, masked_blocks)
    resblocks = tower.transformer.resblocks
    blocks = cut(numbered_blocks("transformer.resblocks", resblocks), masked_blocks)
    first = len(resblocks) - len(blocks)
    features = int(tower.output_dim)
    return ModelSplit(_Prefix(tower, first), _Tail(tower, first), blocks, len(resblocks), features)
