"""How good a network is on images: loss and accuracy with the weights times any multiplier."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from common.models.backbone import Backbone
from common.models.head import Head

__all__ = ["score"]


@torch.no_grad()
def score(
    backbone: Backbone,
    head: Head,
    multiplier: torch.Tensor,
    activations: NDArray[np.float32],
    labels: NDArray[np.int64],
    batch_size: int,
) -> tuple[float, float]:
    """Mean cross-entropy, and the share of images named right; both 0 without images.

    Parameters
    ----------
    backbone, head
        The network; its masks are overwritten.
    multiplier
        float32 ``(d,)``: what each masked weight is multiplied by, a mask or probabilities.
    activations, labels
        Prefix outputs ``(n, tokens, width)`` and classes ``(n,)``.
    batch_size
        Images in a forward pass.
    """
    backbone.masks.set_multiplier(multiplier)
    device = next(backbone.tail.parameters()).device
    loss, right = 0.0, 0
    for start in range(0, len(labels), batch_size):
        tokens = torch.from_numpy(np.array(activations[start : start + batch_size])).to(device)
        target = torch.from_numpy(labels[start : start + batch_size]).to(device)
        logits = head(backbone.tail(tokens))
        loss += F.cross_entropy(logits, target, reduction="sum").item()
        right += int((logits.argmax(1) == target).sum())
    n = max(1, len(labels))
    return loss / n, right / n
