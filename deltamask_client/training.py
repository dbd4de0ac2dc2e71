"""Local training of mask scores (DeltaMask, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from common.models import Activations, Backbone, Head
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


def train_masks(
    backbone: Backbone,
    head: Head,
    activations: Activations,
    labels: NDArray[np.int64],
    theta: NDArray[np.uint16],
    recipe: Recipe,
    *,
    seed: int,
    progress: Progress = silent,
) -> MaskResult:
    """Train scores from the global probabilities, with a fresh Bernoulli mask in every step.

    Weights, biases, norms and the head stay frozen.

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
    progress
        Called after every step.
    """
    masks = backbone.masks
    masks.load_scores(torch.from_numpy(scores(theta)))
    masks.generator.manual_seed(seed)
    fit = run_epochs(
        backbone.tail,
        head,
        masks.parameters(),
        activations,
        labels,
        recipe,
        seed=seed,
        progress=progress,
    )
    return MaskResult(masks.probabilities().numpy(), fit)
