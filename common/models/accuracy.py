"""How good a network is on images, as it is: loss and accuracy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from common.models.activations import Activations

__all__ = ["loss_and_accuracy"]


@torch.no_grad()
def loss_and_accuracy(
    tail: nn.Module,
    head: Callable[[torch.Tensor], torch.Tensor],
    activations: Activations,
    labels: NDArray[np.int64],
    batch_size: int,
) -> tuple[float, float]:
    """Mean cross-entropy, and the share of images named right; both 0 without images.

    Parameters
    ----------
    tail, head
        The network above the activations, with whatever masks or weights it has now.
    activations, labels
        Prefix outputs of the images, and their classes ``(n,)``.
    batch_size
        Images in a forward pass.
    """
    loss, right = 0.0, 0
    for part, tokens in activations.batches(batch_size):
        target = torch.from_numpy(labels[part]).to(activations.device)
        logits = head(tail(tokens))
        loss += F.cross_entropy(logits, target, reduction="sum").item()
        right += int((logits.argmax(1) == target).sum())
    n = max(1, len(labels))
    return loss / n, right / n
