"""A fine-tuned model in one file: what to multiply the frozen weights by, the head, and the names of the classes.

The frozen weights themselves stay where they came from; the file names them, with a digest, and holds either theta
(``mean``: two bytes a masked weight, the most accurate form), a mask of the probabilities of at least one half
(``mask``: one bit), or, after HideNseek, the kept weights and their signs (``signs``: two bits). It is a safetensors
file:

======================== ====== ====================================================================================
tensor                   dtype  what
======================== ====== ====================================================================================
``theta/NAME``           uint16 ``mean``: probability x 65536 of each weight of the tensor NAME, in its shape
``mask/NAME``            uint8  ``mask``: ceil(n / 8) bytes, the bits of its n weights, the first one highest
``kept/NAME``            uint8  ``signs``: as bits, which of its n weights pruning has kept
``sign/NAME``            uint8  ``signs``: as bits, which of them have the sign +1
``head.weight``          float32 ``(classes, features)``
``head.bias``            float32 ``(classes,)``
======================== ====== ====================================================================================

and its metadata: ``format`` (``deltamask-model-v1``), ``form``, ``backbone``, ``image_size``, ``masked_blocks``,
``digest`` (of the frozen weights, in hex), ``classes`` (a JSON list, may be empty); of ``signs`` also ``magnitudes``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from common.data.decode import decode_image
from common.errors import ModelError, brief
from common.models import Head, InputSpec, preprocess
from common.models.backbone import build_parts, frozen_digest
from common.models.subnetwork import Magnitudes, Subnetwork
from common.theta import ONE, probabilities
from deltamask_server.tools.outline import outline

__all__ = ["FORMAT", "FineTuned", "Place", "load_finetuned", "read_finetuned", "write_finetuned", "write_signs"]

FORMAT = "deltamask-model-v1"


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A network ready to use, and what one must know to use it."""

    module: nn.Module
    """Images ``(n, channels, size, size)``, normalised, to logits ``(n, classes)``; in evaluation mode."""
    spec: InputSpec
    classes: tuple[str, ...]
    """Names of the outputs; empty if the run had none."""

    @torch.no_grad()
    def classify(self, image: Path | BinaryIO, top: int = 1) -> list[tuple[str, float]]:
        """Most probable classes of an image file, with their probabilities.

        Raises
        ------
        DataError
            If it has too many pixels, or values without a known range.
        Exception
            Whatever Pillow raises for damaged files.
        """
        pixels = preprocess(decode_image(image, self.spec.size)[None], self.spec)
        logits = self.module(pixels.to(next(self.module.parameters()).device))[0]
        found = torch.topk(logits.softmax(0), min(top, len(logits)))
        return [
            (self.classes[i] if self.classes else str(i), value)
            for i, value in zip(found.indices.tolist(), found.values.tolist(), strict=True)
        ]


class Place(TypedDict):
    """Where a fine-tuned model belongs."""

    backbone: str
    """As in the run config, as are the next two. Names and shapes of the masked tensors follow from them; no weights
    are needed.
    """
    image_size: int
    masked_blocks: int
    digest: str
    """Of the frozen weights, in hex."""
    classes: tuple[str, ...]
    """Names of the outputs, or none."""


def write_finetuned(
    path: Path,
    form: str,
    theta: NDArray[np.uint16],
    head: Head,
    **place: Unpack[Place],
) -> None:
    """Write a model file.

    Parameters
    ----------
    path
        The file to write.
    form
        ``mean`` or ``mask``.
    theta, head
        Global probabilities on the 16-bit grid, ``(d,)``, and the head.
    place
        See `Place`.

    Raises
    ------
    ModelError
        If the backbone has not d masked weights.
    """
    content: dict[str, torch.Tensor] = {}
    for (name, shape), part in _tensors(theta, place):
        if form == "mask":
            content[f"mask/{name}"] = torch.from_numpy(np.packbits(part >= ONE // 2))
        else:
            content[f"theta/{name}"] = torch.from_numpy(part.astype(np.int32)).to(torch.uint16).reshape(shape)
    _save(path, content, head, form, place)


def write_signs(
    path: Path,
    signs: NDArray[np.int8],
    head: Head,
    *,
    magnitudes: str,
    **place: Unpack[Place],
) -> None:
    """Write a model file of what HideNseek has learnt.

    Parameters
    ----------
    path, place
        As for `write_finetuned`.
    signs
        Of the backbone's masked weights, ``(d,)``: -1, +1, or 0 where it is pruned.
    head
        With its own signs, if it has any.
    magnitudes
        ``own`` or ``constant``, see `common.models.subnetwork`.

    Raises
    ------
    ModelError
        If the backbone has not d masked weights.
    """
    content: dict[str, torch.Tensor] = {}
    for (name, _), part in _tensors(signs, place):
        content[f"kept/{name}"] = torch.from_numpy(np.packbits(part != 0))
        content[f"sign/{name}"] = torch.from_numpy(np.packbits(part > 0))
    _save(path, content, head, "signs", place, magnitudes=magnitudes)


def _tensors(flat: NDArray[Any], place: Place) -> Iterator[tuple[tuple[str, tuple[int, ...]], NDArray[Any]]]:
    """Name and shape of each masked tensor, and its part of a flat vector."""
    tensors = outline(place["backbone"], place["image_size"], place["masked_blocks"]).tensors
    sizes = [prod(shape) for _, shape in tensors]
    if sum(sizes) != len(flat):
        raise ModelError(f"the run has {len(flat):,} masked weights, {place['backbone']} {sum(sizes):,}")
    return zip(tensors, np.split(flat, np.cumsum(sizes)[:-1]), strict=True)


def _save(path: Path, content: dict[str, torch.Tensor], head: Head, form: str, place: Place, **more: str) -> None:
    tensors = {"head.weight": torch.from_numpy(head.weight), "head.bias": torch.from_numpy(head.bias)}
    metadata = {
        "format": FORMAT,
        "form": form,
        "backbone": place["backbone"],
        "image_size": str(place["image_size"]),
        "masked_blocks": str(place["masked_blocks"]),
        "digest": place["digest"],
        "classes": json.dumps(list(place["classes"])),
    }
    save_file(content | tensors, path, metadata | more)


def load_finetuned(path: str | Path, weights: str = "default", device: str = "cpu") -> nn.Module:
    """Load a model file as a plain network of its library, with its masked weights multiplied and a classifier.

    Parameters
    ----------
    path
        What `write_finetuned` or ``deltamask export`` wrote.
    weights
        Where the frozen weights are, as in the run config: ``default``, or a .safetensors file.
    device
        A torch device.

    Returns
    -------
    For Vision Transformers of timm, a ``timm`` model with its own ``head``; for other architectures an
    ``nn.Sequential`` of the model and an ``nn.Linear``. Input and output as for `FineTuned.module`.

    Raises
    ------
    ModelError
        If the file is none of these, or the frozen weights are not those of the run.
    """
    return read_finetuned(path, weights, device).module


def read_finetuned(path: str | Path, weights: str = "default", device: str = "cpu") -> FineTuned:
    """As `load_finetuned`, with what one must know to feed it and to read its output."""
    metadata, tensors = _read(Path(path))
    name, blocks = metadata["backbone"], int(metadata["masked_blocks"])
    model, spec, split, masked = build_parts(name, weights, int(metadata["image_size"]), blocks, device)
    digest = frozen_digest(model, spec, len(split.blocks)).hex()
    if digest != metadata["digest"]:
        raise ModelError(
            f"{path}: fine-tuned from frozen weights with digest {metadata['digest']}, those of {name} from "
            f"{weights!r} have {digest}; name the file that the run used: weights='/path/to/file.safetensors'"
        )
    try:
        with torch.no_grad():
            for tensor in masked:
                weight = getattr(tensor.module, tensor.attribute)
                weight.copy_(_changed(weight.cpu(), tensors, metadata, tensor.name))
        outputs, features = tensors["head.weight"].shape
        head = nn.Linear(features, outputs)
        head.load_state_dict({"weight": tensors["head.weight"], "bias": tensors["head.bias"]})
        classes = tuple(json.loads(metadata["classes"]))
    except (KeyError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path}: not a whole model file: {brief(error)}") from error
    return FineTuned(_with_head(model, head.to(device)).eval(), spec, classes)


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            found: dict[str, Any] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: cannot be read: {brief(error)}") from error
    if metadata.get("format") != FORMAT:
        raise ModelError(f"{path}: not a fine-tuned model; `deltamask export RUN` makes one from a run's folder")
    return metadata, found


def _changed(
    weight: torch.Tensor, tensors: dict[str, torch.Tensor], metadata: dict[str, str], name: str
) -> torch.Tensor:
    """A frozen weight times what the file holds for it."""

    def bits(kind: str) -> NDArray[np.bool_]:
        return np.unpackbits(tensors[f"{kind}/{name}"].numpy(), count=weight.numel()).view(np.bool_)

    if metadata["form"] == "signs":
        subnetwork = Subnetwork(bits("kept"), (weight.numel(),))
        magnitudes: Magnitudes = "constant" if metadata["magnitudes"] == "constant" else "own"
        prepared = subnetwork.prepare(weight.flatten().numpy(), magnitudes)
        return torch.from_numpy(np.where(bits("sign"), prepared, -prepared)).view_as(weight)
    if metadata["form"] == "mask":
        return weight * torch.from_numpy(bits("mask").astype(np.float32)).view_as(weight)
    return weight * torch.from_numpy(probabilities(tensors[f"theta/{name}"].numpy())).view_as(weight)


def _with_head(model: nn.Module, head: nn.Linear) -> nn.Module:
    if type(model) is VisionTransformer and isinstance(model.head, nn.Identity):
        model.head = head
        return model
    return nn.Sequential(model, head)
