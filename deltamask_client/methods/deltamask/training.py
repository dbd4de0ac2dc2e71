"""Local training of mask scores (DeltaMask, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from common.models.activations import Activations
from common.models.backbone import Backbone
from common.models.heads import Head
from common.theta import scores
from deltamask_client.epochs import Fit, Progress, Recipe, run_epochs, silent

__all__ = ["MaskResult", "train_masks"]


@dataclass(frozen=True)
class MaskResult:
    """What one client learnt in one round."""

    theta: NDArray[np.float32]
    """Local probabilities, ``(d,)``."""
    fit: Fit
    """With sampled masks."""
    head: Head
    """The head given, or what training made of it."""


def train_masks(
    backbone: Backbone,
    head: Head,
    activations: Activations,
    labels: NDArray[np.int64],
    theta: NDArray[np.uint16],
    recipe: Recipe,
    *,
    seed: int,
    head_learning_rate: float = 0.0,
    progress: Progress = silent,
) -> MaskResult:
    """Train scores from the global probabilities, with a fresh Bernoulli mask in every step.

    Weights, biases, norms and (unless asked otherwise) the head stay frozen.

    Parameters
    ----------
    backbone, head
        The frozen network; its masks are overwritten.
    activations, labels
        Prefix outputs of the local images, and their classes ``(n,)``.
    theta
        Global probabilities on the 16-bit grid, ``(d,)``.
    recipe
        Epochs, batches and optimiser.
    seed
        Seeds the order of the images, their views and the masks of the steps; private to the client.
    head_learning_rate
        The optimiser's step on the head, in the same steps; 0 leaves it frozen.
    progress
        Called after every step.
    """
    masks = backbone.masks
    masks.load_scores(torch.from_numpy(scores(theta)))
    masks.generator.manual_seed(seed)
    weight, bias = (torch.tensor(values, device=activations.device) for values in (head.weight, head.bias))
    groups: list[dict[str, Any]] = [{"params": masks.parameters()}]
    if head_learning_rate:
        groups.append({"params": [weight.requires_grad_(), bias.requires_grad_()], "lr": head_learning_rate})
    fit = run_epochs(
        backbone.tail,
        lambda features: F.linear(features, weight, bias),
        groups,
        activations,
        labels,
        recipe,
        seed=seed,
        progress=progress,
    )
    trained = Head(weight.detach().cpu().numpy(), bias.detach().cpu().numpy())
    return MaskResult(masks.probabilities().numpy(), fit, trained)
