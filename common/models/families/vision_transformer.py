"""timm's VisionTransformer: ViT, DeiT III, DINOv2 with and without registers, SigLIP, with LayerScale or without."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from common.models.families.model_split import ModelSplit, cut, numbered_blocks

__all__ = ["split_vision_transformer"]


class _Prefix(nn.Module):
    """Patch embedding and the blocks below the masked ones."""

    def __init__(self, vit: VisionTransformer, blocks: int) -> None:
        super().__init__()
        self.patch_embed, self.patch_drop, self.norm_pre = vit.patch_embed, vit.patch_drop, vit.norm_pre
        self.pos_embed = vit._pos_embed  # bound method: adds class token, registers and position embedding
        self.blocks = vit.blocks[:blocks]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.blocks(self.norm_pre(self.patch_drop(self.pos_embed(self.patch_embed(images)))))
        return tokens


class _Tail(nn.Module):
    """The masked blocks, final norm and pooling."""

    def __init__(self, vit: VisionTransformer, blocks: int) -> None:
        super().__init__()
        self.blocks, self.norm = vit.blocks[blocks:], vit.norm
        self.pool = vit.forward_head

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.pool(self.norm(self.blocks(tokens)))
        return features


def split_vision_transformer(vit: VisionTransformer, masked_blocks: int) -> ModelSplit:
    """Split a Vision Transformer of timm; activations are tokens ``(n, tokens, width)``."""
    blocks = cut(numbered_blocks("blocks", vit.blocks), masked_blocks)
    first = len(vit.blocks) - len(blocks)
    features = vit.head.out_features if isinstance(vit.head, nn.Linear) else vit.num_features
    return ModelSplit(_Prefix(vit, first), _Tail(vit, first), blocks, len(vit.blocks), int(features))
