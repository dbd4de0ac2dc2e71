"""The small CNNs of `common.models.plain_cnn`: every layer is a block, so all of the network can be masked."""

from __future__ import annotations

from torch import nn

from common.models.families.model_split import ModelSplit, cut, numbered_blocks
from common.models.plain_cnn import PlainCNN

__all__ = ["split_plain_cnn"]


def split_plain_cnn(net: PlainCNN, masked_blocks: int) -> ModelSplit:
    """Split a plain CNN; activations are maps or, below a linear block but the first, vectors. Nothing is below the
    first block: if that is masked too, the activations are the images themselves.
    """
    blocks = cut(numbered_blocks("blocks", net.blocks), masked_blocks)
    first = len(net.blocks) - len(blocks)
    prefix = net.blocks[:first] if first else nn.Identity()
    return ModelSplit(prefix, net.blocks[first:], blocks, len(net.blocks), net.features)
