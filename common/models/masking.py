"""Bernoulli masks on frozen weights: sampling, the straight-through gradient, and their place in a torch module.

A masked weight is a parametrisation of the frozen tensor, so any module and any tensor works: ``nn.Linear``,
``nn.Conv2d``, or the packed projection of ``nn.MultiheadAttention``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

__all__ = ["MaskedWeight", "Masks", "SampledMask"]


class SampledMask(torch.autograd.Function):
    """``w * m`` with ``m = [u < sigmoid(s)]``, and the straight-through gradient to the scores.

    The sampling step counts as the identity in the backward pass (Bengio et al. 2013; DeltaMask, section 3.1), so with
    p = sigmoid(s): ``dL/ds = dL/d(w m) * w * p * (1 - p)``. The frozen weight gets no gradient.
    """

    @staticmethod
    def forward(ctx: Any, score: torch.Tensor, weight: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """All three tensors have one shape; ``uniform`` is in [0, 1)."""
        probability = torch.sigmoid(score)
        ctx.save_for_backward(probability, weight)
        return weight * (uniform < probability)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Gradient of the scores only."""
        probability, weight = ctx.saved_tensors
        return grads[0] * weight * (probability * (1 - probability)), None, None


class MaskedWeight(nn.Module):
    """The mask of one frozen tensor: sampled anew in every training forward, or a fixed multiplier for evaluation."""

    def __init__(self, weight: torch.Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.zeros_like(weight))
        self.generator = generator
        self.multiplier: torch.Tensor | None = None

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the masked weight."""
        if self.multiplier is not None:
            return weight * self.multiplier
        uniform = torch.rand(weight.shape, generator=self.generator, device=weight.device)
        masked: torch.Tensor = SampledMask.apply(self.score, weight, uniform)
        return masked


class Masks:
    """All masks of a model, addressed as one flat vector of d entries in a fixed order.

    Making one freezes every parameter of ``model`` and gives each named tensor a score.

    Parameters
    ----------
    model
        The module to mask.
    tensors
        ``(module, tensor name)`` pairs, in the order of the flat vector.
    """

    def __init__(self, model: nn.Module, tensors: Sequence[tuple[nn.Module, str]]) -> None:
        model.requires_grad_(False)
        device = next(model.parameters()).device
        self.generator = torch.Generator(device=device)
        self._masks: list[MaskedWeight] = []
        for module, name in tensors:
            mask = MaskedWeight(getattr(module, name), self.generator)
            parametrize.register_parametrization(module, name, mask, unsafe=True)
            self._masks.append(mask)
        self.segments: tuple[int, ...] = tuple(mask.score.numel() for mask in self._masks)
        """Entries of each masked tensor."""

    @property
    def d(self) -> int:
        """Masked weights in all."""
        return sum(self.segments)

    def parameters(self) -> list[nn.Parameter]:
        """The score tensors, for an optimiser."""
        return [mask.score for mask in self._masks]

    def load_scores(self, scores: torch.Tensor) -> None:
        """Copy flat scores ``(d,)`` in, and sample masks from them from now on."""
        with torch.no_grad():
            for mask, part in self._split(scores):
                mask.score.copy_(part)
                mask.multiplier = None

    def probabilities(self) -> torch.Tensor:
        """``sigmoid(s)`` as a flat float32 vector ``(d,)`` on the CPU."""
        with torch.no_grad():
            return torch.cat([torch.sigmoid(mask.score).flatten().cpu() for mask in self._masks])

    def set_multiplier(self, multiplier: torch.Tensor) -> None:
        """Multiply the frozen weights by a flat vector ``(d,)`` from now on: a mask of zeros and ones, or
        probabilities.
        """
        for mask, part in self._split(multiplier):
            mask.multiplier = part.to(mask.score.device, mask.score.dtype)

    def _split(self, flat: torch.Tensor) -> Iterator[tuple[MaskedWeight, torch.Tensor]]:
        for mask, part in zip(self._masks, torch.split(flat, list(self.segments)), strict=True):
            yield mask, part.view_as(mask.score)
