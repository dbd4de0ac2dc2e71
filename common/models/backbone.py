"""Backbones: a frozen Vision Transformer from timm, split into a prefix that never changes and a tail that is masked.

The blocks before the first masked one give the same activations for an image in every epoch and round.
`Backbone.prefix` computes them once, `Backbone.tail` is all that local training runs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from common.errors import ModelError
from common.models import letters
from common.models.masking import Masks

__all__ = ["Backbone", "InputSpec", "load_backbone"]


@dataclass(frozen=True)
class InputSpec:
    """What the network wants to see: channels (1 or 3), side in pixels, and the mean and standard deviation of each
    channel (of values in [0, 1]).
    """

    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class _Prefix(nn.Module):
    """Patch embedding and the blocks below the masked ones: images to tokens ``(n, tokens, width)``."""

    def __init__(self, vit: VisionTransformer, blocks: int) -> None:
        super().__init__()
        self.patch_embed, self.patch_drop, self.norm_pre = vit.patch_embed, vit.patch_drop, vit.norm_pre
        self.pos_embed = vit._pos_embed  # bound method: adds class token and position embedding
        self.blocks = vit.blocks[:blocks]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.blocks(self.norm_pre(self.patch_drop(self.pos_embed(self.patch_embed(images)))))
        return tokens


class _Tail(nn.Module):
    """The masked blocks, final norm and pooling: tokens to features ``(n, width)``."""

    def __init__(self, vit: VisionTransformer, blocks: int) -> None:
        super().__init__()
        self.blocks, self.norm = vit.blocks[blocks:], vit.norm
        self.pool = vit.forward_head

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.pool(self.norm(self.blocks(tokens)), pre_logits=True)
        return features


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network in two parts, and the masks of the second."""

    name: str
    spec: InputSpec
    prefix: nn.Module
    tail: nn.Module
    masks: Masks
    features: int
    """Length of the feature vector."""
    digest: bytes
    """8 bytes over every frozen weight and the split: server and clients must have the same."""

    @torch.no_grad()
    def unmasked_features(self, tokens: torch.Tensor) -> torch.Tensor:
        """Features of the pre-trained function (every mask bit 1) of prefix outputs."""
        self.masks.set_multiplier(torch.ones(self.masks.d))
        out: torch.Tensor = self.tail(tokens)
        return out


def load_backbone(name: str, weights: str, image_size: int, masked_blocks: int, device: str = "cpu") -> Backbone:
    """Build a frozen backbone and mask every Linear weight of its last blocks.

    Parameters
    ----------
    name
        ``letters-vit`` or a timm Vision Transformer.
    weights
        ``default`` (embedded for ``letters-vit``, else timm's hub), ``random`` (shapes only), or the path of a
        ``.safetensors`` file.
    image_size
        Side of the input; 0 is the backbone's own.
    masked_blocks
        Blocks to mask, from the last.
    device
        Where the network lives, a torch device.

    Raises
    ------
    ModelError
        If there is no such backbone, its weights cannot be had, or it has fewer blocks.
    """
    vit, spec = _load_letters(weights, image_size) if name == "letters-vit" else _load_timm(name, weights, image_size)
    depth = len(vit.blocks)
    if masked_blocks > depth:
        raise ModelError(f"masked-blocks = {masked_blocks}: {name} has {depth} blocks")
    vit.eval().to(device)
    digest = _digest(vit, spec, masked_blocks)
    split = depth - masked_blocks
    prefix = _Prefix(vit, split).requires_grad_(False).eval()
    tail = _Tail(vit, split).eval()
    linears = [(module, "weight") for module in tail.blocks.modules() if isinstance(module, nn.Linear)]
    return Backbone(name, spec, prefix, tail, Masks(tail, linears), int(vit.num_features), digest)


def _load_letters(weights: str, image_size: int) -> tuple[VisionTransformer, InputSpec]:
    if image_size not in (0, letters.IMAGE_SIZE):
        raise ModelError(f"image-size = {image_size}: letters-vit takes {letters.IMAGE_SIZE} (or 0)")
    path = letters.find_letters_weights() if weights == "default" else _local_file(weights)
    if not path.is_file():
        raise ModelError(
            f"the embedded weights are not at {path}; install the project in this environment: pip install ."
        )
    vit = letters.build_letters_vit()
    vit.load_state_dict({key: tensor.float() for key, tensor in load_file(path).items()})
    vit.reset_classifier(0)
    return vit, InputSpec(1, letters.IMAGE_SIZE, (letters.MEAN,), (letters.STD,))


def _load_timm(name: str, weights: str, image_size: int) -> tuple[VisionTransformer, InputSpec]:
    if not timm.is_model(name.split(".")[0]):
        raise ModelError(f"backbone = {name!r}: timm knows no such model")
    options: dict[str, object] = {"pretrained": weights != "random", "num_classes": 0}
    if image_size:
        options["img_size"] = image_size
    if weights not in ("default", "random"):
        options["pretrained_cfg_overlay"] = {"file": str(_local_file(weights))}
    try:
        vit = timm.create_model(name, **options)
    except Exception as error:  # timm, its hub client and safetensors raise many types
        hint = (
            " Without a network, download its .safetensors file and name it: weights='/path/to/file.safetensors'."
            if weights == "default"
            else ""
        )
        raise ModelError(f"backbone {name!r} with weights {weights!r} cannot be loaded: {error}.{hint}") from error
    if not isinstance(vit, VisionTransformer):
        raise ModelError(f"backbone = {name!r} is a {type(vit).__name__}; Vision Transformers of timm are supported")
    cfg = vit.pretrained_cfg
    size = image_size or int(cfg["input_size"][1])
    return vit, InputSpec(int(cfg["input_size"][0]), size, tuple(cfg["mean"]), tuple(cfg["std"]))


def _local_file(weights: str) -> Path:
    """Weights that a config value names as a file. Other formats than safetensors may run code when they are read."""
    path = Path(weights).expanduser().resolve()
    if path.suffix != ".safetensors" or not path.is_file():
        raise ModelError(f"weights = {weights!r}: no .safetensors file at {path} (or use `default`)")
    return path


def _digest(model: nn.Module, spec: InputSpec, masked_blocks: int) -> bytes:
    state = hashlib.blake2b(f"{spec}/{masked_blocks}".encode(), digest_size=8)
    for key, tensor in sorted(model.state_dict().items()):
        state.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
        state.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return state.digest()
