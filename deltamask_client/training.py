"""Local training of mask scores (DeltaMask, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from common.models import Backbone, Head
from common.theta import scores

__all__ = ["LocalResult", "train_masks"]


@dataclass(frozen=True)
class LocalResult:
    """What one client learnt in one round."""

    theta: NDArray[np.float32]
    """Local probabilities, ``(d,)``."""
    loss: float
    """Mean cross-entropy of the last epoch, with sampled masks."""
    accuracy: float
    """Share of local images named right in the last epoch, with sampled masks."""
    head: Head
    """The head given, or what training made of it."""


def train_masks(
    backbone: Backbone,
    head: Head,
    activations: NDArray[np.float32],
    labels: NDArray[np.int64],
    theta: NDArray[np.uint16],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    head_learning_rate: float = 0.0,
) -> LocalResult:
    """Train scores from the global probabilities, with a fresh Bernoulli mask in every step.

    Weights, biases, norms and (unless asked otherwise) the head stay frozen; Adam is fresh in every round, since its
    moments describe a theta that aggregation has replaced.

    Parameters
    ----------
    backbone, head
        The frozen network; its masks are overwritten.
    activations, labels
        Prefix outputs ``(n, tokens, width)`` and classes ``(n,)`` of the local images.
    theta
        Global probabilities on the 16-bit grid, ``(d,)``.
    epochs, batch_size, learning_rate
        Passes over the local data, images in a step, Adam's step.
    seed
        Seeds the order of the images and the masks of the steps; private to the client.
    head_learning_rate
        Adam's step on the head, in the same steps; 0 leaves it frozen.
    """
    masks = backbone.masks
    masks.load_scores(torch.from_numpy(scores(theta)))
    masks.generator.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    device = masks.parameters()[0].device
    targets = torch.from_numpy(labels)
    weight, bias = torch.tensor(head.weight, device=device), torch.tensor(head.bias, device=device)
    optimiser = torch.optim.Adam(masks.parameters(), lr=learning_rate, fused=True)
    if head_learning_rate:
        group = {"params": [weight.requires_grad_(), bias.requires_grad_()], "lr": head_learning_rate}
        optimiser.add_param_group(group)
    loss_sum, right = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
    for epoch in range(epochs):
        if epoch == epochs - 1:
            loss_sum.zero_(), right.zero_()
        order = torch.randperm(len(labels), generator=rng)
        for start in range(0, len(labels), batch_size):
            index = order[start : start + batch_size]
            tokens = torch.from_numpy(activations[index.numpy()]).to(device)
            target = targets[index].to(device)
            logits = F.linear(backbone.tail(tokens), weight, bias)
            loss = F.cross_entropy(logits, target)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            with torch.no_grad():
                loss_sum += loss * len(index)
                right += (logits.argmax(1) == target).sum()
    n = max(1, len(labels))
    trained = Head(weight.detach().cpu().numpy(), bias.detach().cpu().numpy())
    return LocalResult(masks.probabilities().numpy(), loss_sum.item() / n, right.item() / n, trained)
