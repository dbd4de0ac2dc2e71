"""A fine-tuned model in one file: what to multiply the frozen weights by, the head, and the names of the classes.

The frozen weights themselves stay where they came from; the file names them, with a digest, and holds what a form of
the run's method says of each masked tensor (`deltamask_server.model_form`): theta (``mean``: two bytes a masked weight,
the most accurate form), a mask of the probabilities of at least one half (``mask``: one bit), or, after HideNseek, the
kept weights and their signs (``signs``: two bits). It is a safetensors file. Beside the form's tensors there are
``head.weight``, float32 ``(classes, features)``, and ``head.bias``, float32 ``(classes,)``; its metadata are ``format``
(``deltamask-model-v1``), ``form``, ``backbone``, ``image_size``, ``masked_blocks``, ``digest`` (of the frozen weights,
in hex), ``weights`` (what the run had: ``default``, ``random:SEED``, or the name of a file; older files do not say),
``classes`` (a JSON list, may be empty), and the form's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, TypedDict, Unpack

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from common.data.decode import decode_image
from common.data.pixel_range import PixelRange
from common.errors import ModelError, brief, reason_of
from common.models.backbone import build_parts, frozen_digest
from common.models.heads import Head
from common.models.input_spec import InputSpec
from common.models.preprocess import preprocess
from common.models.presets import parse_name
from common.models.weight_files import DEFAULT, RANDOM, random_seed
from common.models.weights_identity import hub_file
from deltamask_server.methods import STRATEGIES
from deltamask_server.model_form import ModelForm
from deltamask_server.tools.outline import outline

__all__ = ["FORMAT", "FineTuned", "Place", "forms", "load_finetuned", "needed", "read_finetuned", "write_finetuned"]

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
    def classify(
        self, image: Path | BinaryIO, top: int = 1, pixel_range: PixelRange | None = None
    ) -> list[tuple[str, float]]:
        """Most probable classes of an image file, with their probabilities.

        Parameters
        ----------
        image, pixel_range
            See `common.data.decode.decode_image`.
        top
            Number of classes.

        Raises
        ------
        DataError
            If it has too many pixels, or values without a known range.
        Exception
            Whatever Pillow raises for damaged files.
        """
        pixels = preprocess(decode_image(image, self.spec.size, pixel_range=pixel_range)[None], self.spec)
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
    weights: str
    """As in the run config. Of a path the file holds the name alone: where a machine keeps its files is nobody's
    business.
    """
    digest: str
    """Of the frozen weights, in hex."""
    classes: tuple[str, ...]
    """Names of the outputs, or none."""


def write_finetuned(
    path: Path,
    form: str,
    model: Mapping[str, NDArray[Any]],
    head: Head,
    config: Mapping[str, Any] = MappingProxyType({}),
    **place: Unpack[Place],
) -> int:
    """Write a model file.

    Parameters
    ----------
    path
        The file to write.
    form
        The name of a form.
    model, head
        What the run has kept of its global model, and the head.
    config
        The run config, by its keys, as far as the form reads it.
    place
        See `Place`.

    Returns
    -------
    The backbone's masked weights.

    Raises
    ------
    ModelError
        If the backbone has another number of masked weights than the run.
    """
    layout = outline(place["backbone"], place["image_size"], place["masked_blocks"]).tensors
    content = forms()[form].write(model, head, layout, config)
    metadata = {
        "format": FORMAT,
        "form": form,
        "backbone": place["backbone"],
        "image_size": str(place["image_size"]),
        "masked_blocks": str(place["masked_blocks"]),
        "digest": place["digest"],
        "weights": _recorded(place["weights"]),
        "classes": json.dumps(list(place["classes"])),
    }
    heads = {"weight": content.head.weight, "bias": content.head.bias}
    tensors = content.tensors | {f"head.{name}": torch.from_numpy(values) for name, values in heads.items()}
    save_file(tensors, path, metadata | content.metadata)
    return sum(prod(shape) for _, shape in layout)


def forms() -> dict[str, ModelForm]:
    """Every method's forms, by name."""
    return {form.name: form for strategy in STRATEGIES.values() for form in strategy.files}


def needed(place: Place) -> str:
    """What a model file does not hold and whoever uses it must have, as a sentence."""
    weights = _recorded(place["weights"])
    if weights != DEFAULT and random_seed(weights) is None:
        return f"its frozen weights are not in it: use it with --weights and the run's file {weights}"
    source = parse_name(place["backbone"])
    if weights != DEFAULT or source.library == "plain":
        return "its frozen weights are drawn again where it is used"
    if source.library == "letters":
        return "its frozen weights are those that DeltaMask brings"
    return f"its frozen weights are not in it, but on the hub: {hub_file(source)}"


def load_finetuned(path: str | Path, weights: str | None = None, device: str = "cpu") -> nn.Module:
    """Load a model file as a plain network of its library, with its masked weights multiplied and a classifier.

    Parameters
    ----------
    path
        What `write_finetuned` or ``deltamask export`` wrote.
    weights
        Where the frozen weights are, as in the run config: ``default``, ``random:SEED``, or a file. None: where the
        run had them, which can be told for all but a file; ``default`` where the model file does not say.
    device
        A torch device.

    Returns
    -------
    For Vision Transformers of timm, a ``timm`` model with its own ``head``; for other architectures an
    ``nn.Sequential`` of the model and an ``nn.Linear``. Input and output as for `FineTuned.module`.

    Raises
    ------
    ModelError
        If the file is none of these, the frozen weights are not those of the run, or they were a file and none is
        named.
    """
    return read_finetuned(path, weights, device).module


def read_finetuned(path: str | Path, weights: str | None = None, device: str = "cpu") -> FineTuned:
    """As `load_finetuned`, with what one must know to feed it and to read its output."""
    metadata, tensors = _read(Path(path))
    try:
        name, wanted, form_name = metadata["backbone"], metadata["digest"], metadata["form"]
        size, blocks = int(metadata["image_size"]), int(metadata["masked_blocks"])
    except (KeyError, ValueError) as error:
        raise ModelError(f"{path}: not a whole model file: {reason_of(error)}") from error
    form = forms().get(form_name)
    if form is None:
        raise ModelError(f"{path}: a file of form {form_name!r}; known are {', '.join(forms())}")
    had = brief(metadata.get("weights", DEFAULT))
    if weights is None:
        if had != DEFAULT and random_seed(had) is None:
            raise ModelError(
                f"{path}: its frozen weights are not in it; they were those of the file {had} (digest {wanted}), "
                "so name that file, by --weights or weights=, or `default` if it is the hub's"
            )
        weights = had
    model, spec, split, masked = build_parts(name, weights, size, blocks, device)
    digest = frozen_digest(model, spec, len(split.blocks)).hex()
    if digest != wanted:
        used = f"what the run used, {had}," if "weights" in metadata else "the file that the run used"
        remedy = f"name {used} by --weights or weights="
        if weights == had and "weights" in metadata:  # the same seed, or the hub's file
            remedy = "the run had these too, so take its versions of torch and of the backbone's library"
        raise ModelError(
            f"{path}: fine-tuned from frozen weights with digest {brief(wanted)}, those of {name} from "
            f"{weights!r} have {digest}; {remedy}"
        )
    try:
        with torch.no_grad():
            for tensor in masked:
                weight = getattr(tensor.module, tensor.attribute)
                weight.copy_(form.changed(weight.cpu(), tensors, metadata, tensor.name))
        outputs, features = tensors["head.weight"].shape
        head = nn.Linear(features, outputs)
        head.load_state_dict({"weight": tensors["head.weight"], "bias": tensors["head.bias"]})
        classes = tuple(json.loads(metadata["classes"]))
    except (KeyError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path}: not a whole model file: {brief(error)}") from error
    return FineTuned(_with_head(model, head.to(device)).eval(), spec, classes)


def _recorded(weights: str) -> str:
    seed = random_seed(weights)
    if seed is not None:
        return f"{RANDOM}:{seed}"
    return weights if weights == DEFAULT else Path(weights).name


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


def _with_head(model: nn.Module, head: nn.Linear) -> nn.Module:
    if type(model) is VisionTransformer and isinstance(model.head, nn.Identity):
        model.head = head
        return model
    return nn.Sequential(model, head)
