"""Names of backbones: the embedded one, plain CNNs, presets, any of timm, any image tower of open_clip."""

from __future__ import annotations

from typing import NamedTuple

from common.errors import ModelError, brief

__all__ = ["LETTERS", "PLAIN", "PRESETS", "Source", "parse_name"]

LETTERS = "letters-vit"
PLAIN = ("lenet", "conv4", "conv6")
"""Small CNNs with random weights (`common.models.plain_cnn`)."""
_OPEN_CLIP = "open_clip:"
_ORIGINS = ("hf-hub:", "local-dir:")


class Source(NamedTuple):
    """Where an architecture and its weights come from."""

    library: str
    """``timm``, ``open_clip``, ``letters`` (the embedded backbone) or ``plain`` (CNNs with random weights)."""
    model: str
    """The library's name for the architecture."""
    tag: str = ""
    """Which of its pre-trained weights; empty for the library's own choice."""
    image_size: int = 0
    """Side of the input unless the run config names one; 0 is the model's own."""

    def __str__(self) -> str:
        """The name by which `parse_name` finds it."""
        if self.library == "open_clip":
            return f"{_OPEN_CLIP}{self.model}" + (f"/{self.tag}" if self.tag else "")
        return self.model + (f".{self.tag}" if self.tag else "")


PRESETS = {
    "vit-tiny": Source("timm", "vit_tiny_patch16_224", "augreg_in21k_ft_in1k"),
    "dinov2-small": Source("timm", "vit_small_patch14_dinov2", "lvd142m", 224),
    "dinov2-base": Source("timm", "vit_base_patch14_dinov2", "lvd142m", 224),
    "dinov2-large": Source("timm", "vit_large_patch14_dinov2", "lvd142m", 224),
    "clip-vit-b32": Source("open_clip", "ViT-B-32-quickgelu", "openai"),
    "clip-vit-l14": Source("open_clip", "ViT-L-14-quickgelu", "openai"),
    "convmixer-768-32": Source("timm", "convmixer_768_32", "in1k"),
}
"""Backbones of the paper, and a small one. CLIP is OpenAI's, which was trained with the quick approximation of GELU;
DINOv2 is used at 224 pixels as in its paper's linear probes, instead of the 518 of its last training phase."""


def parse_name(name: str) -> Source:
    """Find out which backbone a name means; whether there is one is for its library to say.

    Parameters
    ----------
    name
        ``letters-vit``, ``lenet``, ``conv4``, ``conv6``, a preset, a name of timm (``MODEL`` or ``MODEL.TAG``), or
        ``open_clip:MODEL`` or ``open_clip:MODEL/TAG``.

    Raises
    ------
    ModelError
        If it has open_clip look elsewhere: it would ask the hub, for minutes where there is no network.
    """
    if name == LETTERS:
        return Source("letters", name)
    if name in PLAIN:
        return Source("plain", name)
    if name in PRESETS:
        return PRESETS[name]
    if name.startswith(_OPEN_CLIP):
        model, _, tag = name.removeprefix(_OPEN_CLIP).partition("/")
        if model.startswith(_ORIGINS):
            raise ModelError(
                f"backbone = {brief(name)!r}: models are named without where they come from, as open_clip:MODEL/TAG; a "
                "file of another repository or folder is named by weights = '/path/to/file'"
            )
        return Source("open_clip", model, tag)
    model, _, tag = name.partition(".")
    return Source("timm", model, tag)
