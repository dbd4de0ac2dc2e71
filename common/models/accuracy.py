"""How good a network is on images, as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from common.models.activations import Activations
from common.models.class_figures import confusion_matrix

__all__ = ["Scored", "logits_of", "loss_and_accuracy", "score_images"]


class Scored(NamedTuple):
    """A network's answers to some images; loss and accuracy are 0 without images."""

    loss: float
    """Mean cross-entropy."""
    accuracy: float
    """Share of the images named right."""
    confusion: NDArray[np.int64]
    """Images of each class by what they are taken for, ``(classes, classes)``."""


@torch.no_grad()
def logits_of(
    tail: nn.Module, head: Callable[[torch.Tensor], torch.Tensor], activations: Activations, batch_size: int
) -> torch.Tensor:
    """Logits of images, of each its first view: float32 ``(n, classes)``; parameters of `score_images`."""
    return torch.cat([head(tail(tokens)).float() for _, tokens in activations.batches(batch_size)])


@torch.no_grad()
def score_images(
    tail: nn.Module,
    head: Callable[[torch.Tensor], torch.Tensor],
    activations: Activations,
    labels: NDArray[np.int64],
    batch_size: int,
) -> Scored:
    """Ask a network about images.

    Parameters
    ----------
    tail, head
        The network above the activations, with whatever masks or weights it has now.
    activations, labels
        Prefix outputs of the images, and their classes ``(n,)``.
    batch_size
        Images in a forward pass.
    """
    loss, predicted, classes = 0.0, [np.zeros(0, np.int64)], 1
    for part, tokens in activations.batches(batch_size):
        target = torch.from_numpy(labels[part]).to(activations.device)
        logits = head(tail(tokens))
        classes = logits.shape[1]
        loss += F.cross_entropy(logits, target, reduction="sum").item()
        predicted.append(logits.argmax(1).cpu().numpy())
    confusion = confusion_matrix(labels, np.concatenate(predicted), classes)
    n = max(1, len(labels))
    return Scored(loss / n, int(np.trace(confusion)) / n, confusion)


def loss_and_accuracy(
    tail: nn.Module,
    head: Callable[[torch.Tensor], torch.Tensor],
    activations: Activations,
    labels: NDArray[np.int64],
    batch_size: int,
) -> tuple[float, float]:
    """The first two figures of `score_images`."""
    return score_images(tail, head, activations, labels, batch_size)[:2]
