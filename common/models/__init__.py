"""Frozen backbones, their masks, the head, and the cache of prefix activations."""

from common.models.activations import cached_activations, preprocess
from common.models.backbone import Backbone, load_backbone
from common.models.head import Head, average_heads, fit_linear_probe
from common.models.input_spec import InputSpec
from common.models.masking import MaskedWeight, Masks, SampledMask

__all__ = [
    "Backbone",
    "Head",
    "InputSpec",
    "MaskedWeight",
    "Masks",
    "SampledMask",
    "average_heads",
    "cached_activations",
    "fit_linear_probe",
    "load_backbone",
    "preprocess",
]
