"""Frozen backbones, their masks, the head, their accuracy, and the cache of prefix activations."""

from common.models.accuracy import loss_and_accuracy
from common.models.activations import Activations
from common.models.backbone import Backbone, load_backbone
from common.models.heads import HEADS, FittedHead, Head, HeadKind
from common.models.input_spec import InputSpec
from common.models.masking import MaskedWeight, Masks, SampledMask, SignMask
from common.models.preprocess import preprocess
from common.models.tail_weights import TailWeights
from common.models.views import Views

__all__ = [
    "HEADS",
    "Activations",
    "Backbone",
    "FittedHead",
    "Head",
    "HeadKind",
    "InputSpec",
    "MaskedWeight",
    "Masks",
    "SampledMask",
    "SignMask",
    "TailWeights",
    "Views",
    "load_backbone",
    "loss_and_accuracy",
    "preprocess",
]
