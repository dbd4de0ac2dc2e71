"""Image models of timm, without their classifier."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import nn

from common.errors import ModelError, brief
from common.models.input_spec import InputSpec
from common.models.presets import Source
from common.models.weight_files import HubFile, find_weights, read_tensors

__all__ = ["build_timm", "timm_hub_file"]

_HUB_NAME = "model.safetensors"


def build_timm(source: Source, weights: str, image_size: int) -> tuple[nn.Module, InputSpec]:
    """Build a model of timm that ends with its features.

    Parameters
    ----------
    source
        Architecture and tag.
    weights
        As for `common.models.weight_files.find_weights`. Every tensor of the model must be in the file (a classifier
        may, with any number of classes).
    image_size
        Side of the input; 0 is the model's own. Position embeddings are resized.

    Raises
    ------
    ModelError
        If timm has no such model, or the weights do not fit.
    """
    cfg = _config(source)
    channels, native, _ = cfg.input_size
    size = image_size or native
    path = find_weights(weights, timm_hub_file(source), str(source))
    # Networks that take any size have no such parameter.
    options: dict[str, Any] = {"img_size": size} if size != native and cfg.fixed_input_size else {}
    if path is None:
        options["num_classes"] = 0
    else:
        tensors = read_tensors(path)
        # timm checks that a file is complete only if its classifier is the model's: give the model the file's.
        options["num_classes"] = classes = _classes(tensors, cfg.classifier)
        options["pretrained"] = True
        options["pretrained_cfg_overlay"] = {"state_dict": tensors, "num_classes": classes}
    try:
        model = timm.create_model(str(source), **options)
        model.reset_classifier(0)
    except Exception as error:  # timm raises many types
        what = f"with the weights {str(path)!r}" if path else f"at image-size = {size}"
        raise ModelError(f"backbone {str(source)!r} cannot be loaded {what}: {brief(error)}") from error
    return model, InputSpec(channels, size, tuple(cfg.mean), tuple(cfg.std), cfg.interpolation)


def timm_hub_file(source: Source) -> HubFile | None:
    """Where timm keeps the weights of a model; None if nowhere on the hub.

    Raises
    ------
    ModelError
        If timm has no such model.
    """
    repo = _config(source).hf_hub_id
    return HubFile(repo, _HUB_NAME) if repo else None


def _config(source: Source) -> Any:
    if not timm.is_model(source.model):
        close = difflib.get_close_matches(source.model, timm.list_models(), 3)
        hint = f"; near it are {', '.join(close)}" if close else ""
        raise ModelError(f"backbone = {source.model!r}: timm knows no such model{hint}")
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{source.model}.*")]
    if source.tag and source.tag not in tags:
        known = ", ".join(tags) or "none"
        raise ModelError(f"backbone = {str(source)!r}: timm knows no such weights; {source.model} has {known}")
    return get_pretrained_cfg(str(source))


def _classes(tensors: Mapping[str, torch.Tensor], classifier: str | tuple[str, ...] | None) -> int:
    """Outputs of the classifier that a file holds; 0 if it holds none."""
    first = classifier if isinstance(classifier, str) or not classifier else classifier[0]
    weight = tensors.get(f"{first}.weight")
    return 0 if weight is None else int(weight.shape[0])
