"""What makes one step fit all networks and sites: how steep the loss is, and how much there is to tell apart."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from common.models.activations import Activations
from common.models.backbone import Backbone
from common.models.heads import Head

__all__ = ["gradient_scale", "share_of_step"]

_WHOLE = math.log(10)
"""Entropy of labels, in nats, with which a site takes whole steps."""
_BATCHES, _BATCH = 4, 8
"""Enough: gradients of the scores have millions of entries, and their norm differs little between images."""


def gradient_scale(backbone: Backbone, head: Head, activations: Activations, seed: int) -> float:
    """Norm of the gradient of the scores for one image with a random label.

    The step that suits a network goes with the size of its gradients, which differs by a factor of ten between
    backbones and heads. True labels would say how much there is to learn: a site that has learnt all would take
    enormous steps. Labels drawn at random say how the logits hang on the scores, and nothing else (our choice).

    Parameters
    ----------
    backbone, head
        The network, its scores loaded.
    activations
        Of the site's images, of which a few are used.
    seed
        Seeds the images and their labels.

    Returns
    -------
    Root mean square over batches of ``sqrt(b) * norm``, above 0.
    """
    rng = np.random.default_rng(seed)
    count = min(_BATCHES * _BATCH, len(activations))
    chosen, labels = rng.permutation(len(activations))[:count], rng.integers(len(head.bias), size=count)
    weight, bias = (torch.tensor(values, device=activations.device) for values in (head.weight, head.bias))
    parameters = backbone.masks.parameters()
    square = 0.0
    for start in range(0, count, _BATCH):
        part = slice(start, start + _BATCH)
        features = backbone.tail(activations.batch(chosen[part])).float()
        target = torch.from_numpy(labels[part]).to(activations.device)
        loss = F.cross_entropy(F.linear(features, weight, bias), target)
        gradients = torch.autograd.grad(loss, parameters)
        square += len(target) ** 2 * sum(float(gradient.square().sum()) for gradient in gradients)
    return max(math.sqrt(square / max(1, count)), 1e-12)


def share_of_step(labels: NDArray[np.int64]) -> float:
    """What part of a step a site takes: the entropy of its labels, as a share of that of ten classes alike.

    The entropy of its labels is what a site's calibrated loss can fall by. Where few classes are, they are soon told
    apart, and every further step is drift; with a single one there is nothing to learn. More than ten classes take the
    step of ten (our choice).

    Parameters
    ----------
    labels
        Of the site's images, ``(n,)``.

    Returns
    -------
    In [0, 1].
    """
    counts = np.unique(labels, return_counts=True)[1]
    shares = counts / max(1, len(labels))
    entropy = float(-(shares * np.log(shares)).sum())
    return min(1.0, entropy / _WHOLE)
