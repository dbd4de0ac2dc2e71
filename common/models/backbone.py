"""Backbones: a frozen image model, split into a prefix that never changes and a tail that is masked.

The blocks before the first masked one give the same activations for an image in every epoch and round.
`Backbone.prefix` computes them once, `Backbone.tail` is all that local training runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from common.digest import new_digest
from common.errors import DeltaMaskError, ModelError, reason_of
from common.extras import require
from common.models.families import ModelSplit, split_model
from common.models.fit_weights import check_finite
from common.models.input_spec import InputSpec
from common.models.letters import build_letters
from common.models.maskable import MaskedTensor, masked_tensors
from common.models.masking import Masks
from common.models.plain_cnn import build_plain
from common.models.presets import Source, parse_name
from common.models.timm_models import build_timm
from common.models.weight_files import random_seed
from common.models.weights_identity import kept_digest, weights_identity

__all__ = ["Backbone", "Network", "build_parts", "frozen_digest", "load_backbone", "mask_parts"]


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
    def unmasked_features(self, activations: torch.Tensor) -> torch.Tensor:
        """Features of the pre-trained function (every mask bit 1) of prefix outputs."""
        self.masks.unmask()
        out: torch.Tensor = self.tail(activations)
        return out


class Network(NamedTuple):
    """A backbone before it is masked."""

    model: nn.Module
    """All of it, frozen and in evaluation mode."""
    spec: InputSpec
    split: ModelSplit
    tensors: list[MaskedTensor]
    """What will be masked, in the order of the flat vector; each is a tensor of the tail."""


def load_backbone(
    name: str, weights: str, image_size: int, masked_blocks: int, device: str = "cpu", cache: Path | None = None
) -> Backbone:
    """Build a frozen backbone and mask every Linear and Conv2d weight of its last blocks.

    Parameters
    ----------
    name
        ``letters-vit``, ``lenet``, ``conv4``, ``conv6``, a preset, a model of timm, or ``open_clip:MODEL/TAG`` (see
        `common.models.presets`).
    weights
        ``default`` (embedded for ``letters-vit``, drawn with seed 0 for the plain CNNs, else from the hub or its cache
        on this machine), ``random:SEED`` (the same on every machine; ``random`` is seed 0), or the path of a file
        (`common.models.tensor_files`).
    image_size
        Side of the input; 0 is the preset's, or the backbone's own.
    masked_blocks
        Blocks to mask, from the last; 0 is all.
    device
        Where the network lives, a torch device.
    cache
        Folder where the digest of these weights is kept, for whoever loads them again and again; None: nowhere.

    Raises
    ------
    ModelError
        If there is no such backbone, its weights cannot be had or hold NaN, it has fewer blocks, or cannot be split;
        also for whatever else the libraries raise, with their reason.
    """
    parts = build_parts(name, weights, image_size, masked_blocks, device)
    if cache is None:
        return mask_parts(name, parts)
    asked = weights_identity(parse_name(name), weights) + f"{name}/{image_size}/{masked_blocks}".encode()
    return mask_parts(name, parts, kept_digest(asked, lambda: digest_of(parts), cache))


def mask_parts(name: str, parts: Network, digest: bytes | None = None) -> Backbone:
    """Mask what `build_parts` has built under this name; ``digest`` is that of its weights, where it is known."""
    _, spec, split, tensors = parts
    digest = digest or digest_of(parts)
    masks = Masks(split.tail, [(tensor.module, tensor.attribute) for tensor in tensors])
    return Backbone(name, spec, split.prefix, split.tail, masks, split.features, digest)


def build_parts(name: str, weights: str, image_size: int, masked_blocks: int, device: str = "cpu") -> Network:
    """Build and split a model without masking it; parameters and errors of `load_backbone`."""
    with _in_one_line(f"backbone {name!r} cannot be built at image-size = {image_size} with weights = {weights!r}"):
        model, spec = _build(parse_name(name), weights, image_size)
    if random_seed(weights) is None:
        check_finite(model, f"backbone {name!r} with weights = {weights!r}")
    model.requires_grad_(False).eval().to(device)
    with _in_one_line(f"backbone {name!r} cannot be split at image-size = {image_size}"):
        split = split_model(model, spec, masked_blocks)
    split.prefix.eval(), split.tail.eval()
    tensors = masked_tensors(split.blocks)
    if not tensors:
        raise ModelError(f"backbone = {name!r}: there is no Linear or Conv2d weight in {split.blocks[0][0]} and above")
    return Network(model, spec, split, tensors)


def _build(source: Source, weights: str, image_size: int) -> tuple[nn.Module, InputSpec]:
    size = image_size or source.image_size
    with torch.random.fork_rng(devices=[]):  # the libraries draw random weights from torch's global generator
        torch.manual_seed(random_seed(weights) or 0)
        if source.library == "letters":
            return build_letters(weights, size)
        if source.library == "plain":
            return build_plain(source, weights, size)
        if source.library == "timm":
            return build_timm(source, weights, size)
        require("open_clip", "openclip", f"backbone = '{source}'")
        from common.models.open_clip_models import build_open_clip  # its import takes seconds

        return build_open_clip(source, weights, size)


@contextmanager
def _in_one_line(what: str) -> Iterator[None]:
    """Tell whatever a library raises as a `ModelError`, apart from what says nothing about the backbone."""
    try:
        yield
    except (DeltaMaskError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ModelError(f"{what}: {reason_of(error)}") from error


def digest_of(parts: Network) -> bytes:
    """`frozen_digest` of what `build_parts` has built."""
    return frozen_digest(parts.model, parts.spec, len(parts.split.blocks))


def frozen_digest(model: nn.Module, spec: InputSpec, masked_blocks: int) -> bytes:
    """8 bytes over every weight of a model without classifier, its input, and the split."""
    state = new_digest()
    state.update(f"{spec.text}/{masked_blocks}".encode())
    for key, tensor in sorted(model.state_dict().items()):
        state.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
        state.update(tensor.detach().cpu().contiguous().reshape(-1).numpy().data)
    return state.digest()
