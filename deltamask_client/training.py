"""Local training of mask scores (DeltaMask, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from common.models import Activations, Backbone, Head
from common.theta import scores

__all__ = ["LocalResult", "Recipe", "train_masks"]

Progress = Callable[[int, int, torch.Tensor], None]
"""Hears the epoch (from 1), the images done in it, and the last step's loss, on the device that it was computed on."""


@dataclass(frozen=True)
class Recipe:
    """How a client trains in one round."""

    epochs: int
    batch_size: int
    learning_rate: float
    optimiser: Literal["adam", "sgd"] = "adam"
    momentum: float = 0.9
    """Of ``sgd``."""
    precision: torch.dtype = torch.float32
    """What the masked blocks compute in: float32, or bfloat16 by autocast. Scores and their gradients are float32."""

    def make_optimiser(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """A fresh one: its moments would describe a theta that aggregation has replaced."""
        if self.optimiser == "sgd":
            return torch.optim.SGD(parameters, lr=self.learning_rate, momentum=self.momentum, fused=True)
        return torch.optim.Adam(parameters, lr=self.learning_rate, fused=True)


@dataclass(frozen=True)
class LocalResult:
    """What one client learnt in one round."""

    theta: NDArray[np.float32]
    """Local probabilities, ``(d,)``."""
    loss: float
    """Mean cross-entropy of the last epoch, with sampled masks."""
    accuracy: float
    """Share of local images named right in the last epoch, with sampled masks."""


def train_masks(
    backbone: Backbone,
    head: Head,
    activations: Activations,
    labels: NDArray[np.int64],
    theta: NDArray[np.uint16],
    recipe: Recipe,
    *,
    seed: int,
    progress: Progress = lambda epoch, images, loss: None,
) -> LocalResult:
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
    rng = torch.Generator().manual_seed(seed)
    device = activations.device
    targets = torch.from_numpy(labels)
    optimiser = recipe.make_optimiser(masks.parameters())
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
                features = backbone.tail(tokens)
            logits = head(features.float())
            loss = F.cross_entropy(logits, target)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            with torch.no_grad():
                loss_sum += loss * len(target)
                right += (logits.argmax(1) == target).sum()
            progress(epoch, min(step.stop, len(labels)), loss)
    n = max(1, len(labels))
    return LocalResult(masks.probabilities().numpy(), loss_sum.item() / n, right.item() / n)
