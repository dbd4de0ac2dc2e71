"""Frozen backbones, their masks, the head, and the cache of prefix activations."""

from common.models.activations import cached_activations, preprocess
from common.models.backbone import Backbone, InputSpec, load_backbone
from common.models.heads import Head, HeadKind, get_head
from common.models.masking import MaskedWeight, Masks, SampledMask

__all__ = [
    "Backbone",
    "Head",
    "HeadKind",
    "InputSpec",
    "MaskedWeight",
    "Masks",
    "SampledMask",
    "cached_activations",
    "get_head",
    "load_backbone",
    "preprocess",
]
