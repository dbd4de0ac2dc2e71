"""A backbone whose kept weights have a sign to learn, with its head.

A head of the kind ``random`` is the last layer of the network, and has signs as all others. One that was fitted to
features (``ridge``, say) stays as it is.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from common.methods.hidenseek.subnetwork import Subnetwork
from common.models.backbone import Backbone
from common.models.heads import Head
from common.models.masking import MaskedWeight
from common.models.remember_bits import RememberBits

__all__ = ["SignNetwork", "network_segments", "network_weights"]


def network_weights(backbone: Backbone, head: Head | None) -> NDArray[np.float32]:
    """Frozen weights that pruning chooses from, float32 ``(d,)``: the masked ones, then those of a random head."""
    weights: NDArray[np.float32] = backbone.masks.weights().numpy()
    return weights if head is None else np.concatenate([weights, head.weight.ravel()])


def network_segments(backbone: Backbone, head: Head | None) -> tuple[int, ...]:
    """Sizes of the tensors in `network_weights`."""
    return backbone.masks.segments + (() if head is None else (head.weight.size,))


class SignNetwork:
    """Signs on a subnetwork, in the modules of a backbone.

    Parameters
    ----------
    backbone
        Its masks are overwritten.
    subnetwork
        Which weights are kept: of the backbone alone, or of backbone and head.
    prepared
        What their signs multiply, float32 ``(d,)``, `Subnetwork.prepare`.
    """

    def __init__(self, backbone: Backbone, subnetwork: Subnetwork, prepared: NDArray[np.float32]) -> None:
        self._masks, self._subnetwork, self._prepared = backbone.masks, subnetwork, torch.from_numpy(prepared)
        self._signs_head = len(prepared) > backbone.masks.d
        self._head_mask: MaskedWeight | None = None
        self._weight, self._bias = torch.zeros(0), torch.zeros(0)
        self._device = next(backbone.tail.parameters()).device

    def load(self, head: Head, scores: NDArray[np.float32]) -> None:
        """From now on, use the signs of scores.

        Parameters
        ----------
        head
            Bias, and weight where that has no signs of its own.
        scores
            Of the kept weights, float32 ``(n,)``; the sign of 0 is +1.
        """
        d = self._masks.d
        flat = torch.from_numpy(self._subnetwork.spread(scores))
        self._masks.load_signs(self._prepared[:d], flat[:d])
        self._weight, self._bias = (torch.from_numpy(v).to(self._device) for v in (head.weight, head.bias))
        if self._signs_head:
            self._head_mask = MaskedWeight(self._weight, self._masks.generator, RememberBits(nn.Identity()))
            self._head_mask.score.data = flat[d:].view_as(self._weight).to(self._device)
            self._head_mask.base = self._prepared[d:].view_as(self._weight).to(self._device)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, classes)`` of features ``(n, features)``."""
        weight = self._weight if self._head_mask is None else self._head_mask(self._weight)
        return F.linear(features, weight, self._bias)

    def parameters(self) -> list[nn.Parameter]:
        """The score tensors, for an optimiser."""
        return self._masks.parameters() + ([] if self._head_mask is None else [self._head_mask.score])

    def scores(self) -> NDArray[np.float32]:
        """Scores of the kept weights, float32 ``(n,)``."""
        flat = self._masks.scores()
        if self._head_mask is not None:
            flat = torch.cat([flat, self._head_mask.score.detach().flatten().cpu()])
        kept: NDArray[np.float32] = flat.numpy()[self._subnetwork.kept]
        return kept
