"""Image models of timm, without their classifier."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import nn

from common.errors import ModelError, brief, reason_of
from common.models.fit_weights import misfit, network_tensors, wrong_kind
from common.models.input_spec import InputSpec
from common.models.presets import Source
from common.models.tensor_files import read_tensors
from common.models.weight_files import HubFile, find_weights

__all__ = ["build_timm", "timm_hub_file"]

_HUB_NAME = "model.safetensors"
_SIGNS = ":/\\"  # of names such as hf-hub:timm/MODEL.TAG or local-dir:/srv/models


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
    model = timm.create_model(str(source), num_classes=0, **options) if path is None else _load(source, path, options)
    model.reset_classifier(0)
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


def _load(source: Source, path: Path, options: dict[str, Any]) -> Any:
    """A model with the weights of a file, by timm's own loader, which knows older names and resizes positions."""
    wanted = _outline(source).state_dict()
    classifier = _config(source).classifier or ()
    classifiers = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    tensors = network_tensors(read_tensors(path), wanted, path)
    # timm checks that a file is complete only if its classifier is the model's: give the model the file's.
    classes = _classes(tensors, classifiers)
    overlay = {"state_dict": dict(tensors), "num_classes": classes}
    what = f"weights = {str(path)!r} are not those of {source}"
    try:
        model = timm.create_model(
            str(source), num_classes=classes, pretrained=True, pretrained_cfg_overlay=overlay, **options
        )
    except MemoryError:
        raise
    except Exception as error:  # timm and torch raise many types
        found = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[0] not in classifiers}
        raise ModelError(f"{what}: {misfit(found, wanted) or reason_of(error)}") from error
    if wrong := wrong_kind(tensors, wanted):
        raise ModelError(f"{what}: {wrong}")
    return model


def _outline(source: Source) -> nn.Module:
    """A model for the names and shapes of its tensors."""
    try:
        with torch.device("meta"):
            model: nn.Module = timm.create_model(str(source), num_classes=0)
    except Exception:  # it computes with values while it is made
        model = timm.create_model(str(source), num_classes=0)
    return model


def _config(source: Source) -> Any:
    name = str(source)
    if any(sign in name for sign in _SIGNS):
        known = name.replace(":", "/").rpartition("/")[2]
        known = known if timm.is_model(known) else "MODEL.TAG of timm or open_clip:MODEL/TAG"
        raise ModelError(
            f"backbone = {brief(name)!r}: models are named without where they come from, as {known}; a file of another "
            "repository or folder is named by weights = '/path/to/file'"
        )
    if not timm.is_model(source.model):
        close = difflib.get_close_matches(source.model, timm.list_models(), 3)
        hint = f"; near it are {', '.join(close)}" if close else ""
        raise ModelError(f"backbone = {brief(source.model)!r}: timm knows no such model{hint}")
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{source.model}.*")]
    if source.tag and source.tag not in tags:
        known = ", ".join(tags) or "none"
        raise ModelError(f"backbone = {brief(name)!r}: timm knows no such weights; {source.model} has {known}")
    return get_pretrained_cfg(str(source))


def _classes(tensors: Mapping[str, torch.Tensor], classifiers: tuple[str, ...]) -> int:
    """Outputs of the classifier that a file holds; 0 if it holds none."""
    weight = tensors.get(f"{classifiers[0]}.weight") if classifiers else None
    return 0 if weight is None or not weight.dim() else int(weight.shape[0])
