"""Passes over the local data, whatever is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from common.models.activations import Activations
from deltamask_client.objective import CROSS_ENTROPY, Objective, OptimiserOf

__all__ = ["Fit", "Progress", "Recipe", "run_epochs", "silent"]

Progress = Callable[[int, int, torch.Tensor], None]
"""Hears the epoch (from 1), the images done in it, and the last step's loss, on the device that it was computed on."""


def silent(epoch: int, images: int, loss: torch.Tensor) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Recipe:
    """How a client trains in one round."""

    epochs: int
    batch_size: int
    optimiser: OptimiserOf
    objective: Objective = CROSS_ENTROPY
    precision: torch.dtype = torch.float32
    """What the masked blocks compute in: float32, or bfloat16 by autocast. What is trained, and its gradients, are
    float32.
    """


@dataclass(frozen=True)
class Fit:
    """How well the last epoch went, while the model was still changing."""

    loss: float
    """Mean of the objective's loss."""
    accuracy: float
    """Share of local images named right."""


def run_epochs(
    tail: Callable[[torch.Tensor], torch.Tensor],
    head: Callable[[torch.Tensor], torch.Tensor],
    parameters: Sequence[torch.Tensor],
    activations: Activations,
    labels: NDArray[np.int64],
    recipe: Recipe,
    *,
    seed: int,
    progress: Progress = silent,
) -> Fit:
    """Minimise the recipe's objective on the local images.

    Parameters
    ----------
    tail, head
        Prefix outputs ``(b, ...)`` to features, in the recipe's precision; features to logits, in float32.
    parameters
        What is trained.
    activations, labels
        Prefix outputs of the local images, and their classes ``(n,)``.
    recipe
        Epochs, batches, objective and optimiser.
    seed
        Seeds the order of the images and their views.
    progress
        Called after every step.
    """
    rng = torch.Generator().manual_seed(seed)
    device = activations.device
    targets = torch.from_numpy(labels)
    optimiser, objective = recipe.optimiser(parameters), recipe.objective
    loss_sum, right = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
    for epoch in range(1, recipe.epochs + 1):
        loss_sum.zero_(), right.zero_()  # the last epoch's are reported
        order = torch.randperm(len(labels), generator=rng)
        views = torch.randint(activations.views, order.shape, generator=rng) if activations.views > 1 else None
        for start in range(0, len(labels), recipe.batch_size):
            step = slice(start, start + recipe.batch_size)
            tokens = activations.batch(order[step].numpy(), None if views is None else views[step].numpy())
            target = targets[order[step]].to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == torch.bfloat16):
                features = tail(tokens)
            logits = head(features.float())
            loss = objective.loss(logits, target, order[step].to(device))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            objective.add_gradient()
            optimiser.step()
            with torch.no_grad():
                loss_sum += loss * len(target)
                right += (logits.argmax(1) == target).sum()
            progress(epoch, min(step.stop, len(labels)), loss)
    n = max(1, len(labels))
    return Fit(loss_sum.item() / n, right.item() / n)
