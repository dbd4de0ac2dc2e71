"""Local training of mask scores (DeltaMask, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from common.models.activations import Activations
from common.models.backbone import Backbone
from common.models.heads import Head
from common.theta import scores
from deltamask_client.epochs import Fit, Progress, Recipe, run_epochs, silent
from deltamask_client.objective import adam, kl_penalty, together

__all__ = ["MaskResult", "train_masks"]


@dataclass(frozen=True)
class MaskResult:
    """What one client learnt in one round."""

    theta: NDArray[np.float32]
    """Local probabilities, ``(d,)``."""
    fit: Fit
    """With the masks that it was trained with."""
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
    sampled: bool = True,
    penalty: float = 0.0,
    head_learning_rate: float = 0.0,
    progress: Progress = silent,
) -> MaskResult:
    """Train scores from the global probabilities.

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
    sampled
        Multiply weights with a fresh Bernoulli mask in every step, as the paper does; otherwise with the probabilities
        themselves: the gradient then has no noise of masks.
    penalty
        Times KL(theta_k || theta) in nats, divided by the number of images, added to the recipe's objective.
    head_learning_rate
        Adam's step on the head, in the same steps; 0 leaves it frozen.
    progress
        Called after every step.
    """
    masks = backbone.masks
    masks.load_scores(torch.from_numpy(scores(theta)), sampled=sampled)
    masks.generator.manual_seed(seed)
    weight, bias = (torch.tensor(values, device=activations.device) for values in (head.weight, head.bias))
    parameters: list[torch.Tensor] = [*masks.parameters()]
    if penalty:
        add = kl_penalty(parameters, penalty / max(1, len(labels)))
        recipe = replace(recipe, objective=replace(recipe.objective, add_gradient=add))
    if head_learning_rate:
        count = len(parameters)
        recipe = replace(recipe, optimiser=together(recipe.optimiser, count, adam(head_learning_rate)))
        parameters += [weight.requires_grad_(), bias.requires_grad_()]
    fit = run_epochs(
        backbone.tail,
        lambda features: F.linear(features, weight, bias),
        parameters,
        activations,
        labels,
        recipe,
        seed=seed,
        progress=progress,
    )
    trained = Head(weight.detach().cpu().numpy(), bias.detach().cpu().numpy())
    return MaskResult(masks.probabilities().numpy(), fit, trained)
