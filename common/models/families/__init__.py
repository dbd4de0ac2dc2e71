"""How architectures come apart: one file for each family that knows how to, and a rule for the rest that is checked."""

from __future__ import annotations

from timm.models.convmixer import ConvMixer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from common.models.families.convmixer import split_convmixer
from common.models.families.model_split import ModelSplit
from common.models.families.plain_convnet import split_plain_cnn
from common.models.families.sequence import split_sequence
from common.models.families.vision_transformer import split_vision_transformer
from common.models.input_spec import InputSpec
from common.models.plain_cnn import PlainCNN

__all__ = ["ModelSplit", "split_model"]


def split_model(model: nn.Module, spec: InputSpec, masked_blocks: int) -> ModelSplit:
    """Split a model below its last blocks.

    Parameters
    ----------
    model
        A model of timm without classifier, an image tower of open_clip, or a plain CNN, in evaluation mode.
    spec
        Its input.
    masked_blocks
        Blocks in the tail; 0 is all.

    Raises
    ------
    ModelError
        If it has fewer blocks, or no rule fits.
    """
    # Exact classes: what a subclass does differently is not known here, so the checked rule takes it.
    if type(model) is VisionTransformer:
        return split_vision_transformer(model, masked_blocks)
    if type(model) is ConvMixer:
        return split_convmixer(model, masked_blocks)
    if type(model) is PlainCNN:
        return split_plain_cnn(model, masked_blocks)
    if type(model).__module__.startswith("open_clip."):  # its import takes seconds
        from common.models.families.open_clip_tower import split_open_clip

        return split_open_clip(model, spec, masked_blocks, split_model)
    return split_sequence(model, spec, masked_blocks)
