"""Local full fine-tuning of the same blocks: the client's part of ``fedavg``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from common.models import Activations, Backbone, Head, TailWeights
from deltamask_client.epochs import Fit, Progress, Recipe, run_epochs, silent

__all__ = ["WeightResult", "train_weights"]


@dataclass(frozen=True)
class WeightResult:
    """What one client learnt in one round."""

    tail: NDArray[np.float32]
    """Parameters of the blocks, `common.models.TailWeights`."""
    head: Head
    fit: Fit


def train_weights(
    backbone: Backbone,
    head: Head,
    activations: Activations,
    labels: NDArray[np.int64],
    tail: NDArray[np.float32],
    recipe: Recipe,
    *,
    seed: int,
    progress: Progress = silent,
) -> WeightResult:
    """Train every parameter of the last blocks, and the head, from the global ones.

    Parameters
    ----------
    backbone
        The network; it is frozen again, and as it was, afterwards.
    head, tail
        Global head, and global parameters of the blocks, float32 ``(count,)``.
    activations, labels, recipe, seed, progress
        As for `deltamask_client.training.train_masks`.
    """
    weights = TailWeights(backbone)
    weight, bias = (
        torch.from_numpy(values.copy()).to(activations.device).requires_grad_() for values in (head.weight, head.bias)
    )
    with weights.borrowed(tail, trained=True):
        fit = run_epochs(
            backbone.tail,
            lambda features: F.linear(features, weight, bias),
            [*weights.parameters, weight, bias],
            activations,
            labels,
            recipe,
            seed=seed,
            progress=progress,
        )
        trained = Head(weight.detach().cpu().numpy(), bias.detach().cpu().numpy())
        return WeightResult(weights.read(), trained, fit)
