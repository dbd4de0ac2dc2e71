"""Image towers of open_clip: the half of a CLIP model that sees, with its projection to the shared space."""

from __future__ import annotations

import difflib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import torch
from open_clip.model import _build_vision_tower, resize_pos_embed  # building a CLIP would build a text tower as well
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from torch import nn

from common.errors import ModelError, brief
from common.models.fit_weights import misfit, network_tensors, wrong_kind
from common.models.input_spec import InputSpec
from common.models.presets import Source
from common.models.tensor_files import read_tensors
from common.models.weight_files import DEFAULT, HubFile, find_weights, random_seed

__all__ = ["build_open_clip", "open_clip_hub_file"]

_TOWER = "visual."
_HUB_NAME = "open_clip_model.safetensors"


def build_open_clip(source: Source, weights: str, image_size: int) -> tuple[nn.Module, InputSpec]:
    """Build an image tower of open_clip.

    Parameters
    ----------
    source
        Architecture and tag of its pre-trained weights. The tag decides mean, std and the kind of GELU too; without
        one, all tags of the model must agree in these.
    weights
        As for `common.models.weight_files.find_weights`. A file holds a whole CLIP model (of which the tensors
        ``visual.*`` are read) or the tower alone.
    image_size
        Side of the input; 0 is the model's own. Position embeddings are resized.

    Raises
    ------
    ModelError
        If open_clip has no such model or tag, or the weights do not fit.
    """
    config, trained = _configs(source, weights)
    vision = config["vision_cfg"]
    native = int(vision.get("image_size", 224))
    size = image_size or native
    path = find_weights(weights, open_clip_hub_file(source), str(source))
    resized_later = "timm_model_name" in vision  # towers of timm are made at their own size
    tower: nn.Module = _build_vision_tower(
        config["embed_dim"],
        {**vision, "image_size": native if resized_later else size, "timm_model_pretrained": False},
        bool(config.get("quick_gelu") or trained.get("quick_gelu")),
    )
    if path is not None:
        tensors, wanted = _tower_tensors(path, tower), tower.state_dict()
        if wrong := misfit(tensors, wanted) or wrong_kind(tensors, wanted):
            raise ModelError(f"weights = {str(path)!r} are not those of {source}: {wrong}")
        tower.load_state_dict(tensors)
    if resized_later and size != native:
        tower.set_input_size(size)  # type: ignore[operator]
    cfg = merge_preprocess_dict(PreprocessCfg(), trained)
    return tower, InputSpec(3, size, tuple(cfg["mean"]), tuple(cfg["std"]), cfg["interpolation"])


def open_clip_hub_file(source: Source) -> HubFile | None:
    """Where open_clip keeps the weights of a tag on the hub; None without a tag, or if nowhere."""
    repo, _, name = get_pretrained_cfg(source.model, source.tag).get("hf_hub", "").rpartition("/")
    if not repo:
        return None
    return HubFile(repo, Path(name).stem + ".safetensors" if name else _HUB_NAME)


def _configs(source: Source, weights: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configs of the architecture and of its training."""
    name, models = str(source), open_clip.list_models()
    if source.model not in models:
        close = ", ".join(difflib.get_close_matches(source.model, models, 3))
        hint = f"near it are {close}" if close else "open_clip.list_models() has all"
        raise ModelError(f"backbone = {brief(name)!r}: open_clip knows no such model; {hint}")
    config: dict[str, Any] = open_clip.get_model_config(source.model)
    tags = open_clip.list_pretrained_tags_by_model(source.model)
    if source.tag:
        if source.tag not in tags:
            known = ", ".join(tags) or "none"
            raise ModelError(f"backbone = {brief(name)!r}: open_clip knows no such weights; {source.model} has {known}")
        return config, get_pretrained_cfg(source.model, source.tag)
    trained = [get_pretrained_cfg(source.model, tag) for tag in tags]
    kinds = {tuple(str(each.get(key)) for key in ("mean", "std", "interpolation", "quick_gelu")) for each in trained}
    if random_seed(weights) is None and (weights == DEFAULT or len(kinds) > 1):
        raise ModelError(
            f"backbone = {str(source)!r}: say which weights, open_clip:{source.model}/TAG with one of "
            f"{', '.join(tags) or '(open_clip knows none)'}; mean, std and activation depend on them"
        )
    return config, trained[0] if trained else {}


def _tower_tensors(path: Path, tower: nn.Module) -> dict[str, torch.Tensor]:
    """The tower's tensors from a file, with position embeddings of its size."""
    inner = network_tensors(read_tensors(path), tower.state_dict(), path, usual=_TOWER)
    tensors = {_TOWER + key: tensor for key, tensor in inner.items()}
    resize_pos_embed(tensors, SimpleNamespace(visual=tower))
    return {key.removeprefix(_TOWER): tensor for key, tensor in tensors.items()}
