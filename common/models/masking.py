"""Bernoulli masks on frozen weights: sampling, the straight-through gradient, and their place in a torch module.

A masked weight is a parametrisation of the frozen tensor, so any module and any tensor works: ``nn.Linear``,
``nn.Conv2d``, or the packed projection of ``nn.MultiheadAttention``.

Masked weights live for the layer that uses them and no longer: autograd, which would keep each until the backward pass,
is given the frozen weight and the bits instead, and multiplies them again when it needs the product
(:mod:`common.models.remember_bits`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from common.models.remember_bits import RememberBits

__all__ = ["MaskedWeight", "Masks", "MeanMask", "SampledMask", "SignMask"]


class SampledMask(torch.autograd.Function):
    """``w * m`` of a sampled mask m, and the straight-through gradient to the scores it was sampled from.

    The sampling step counts as the identity in the backward pass (Bengio et al. 2013; DeltaMask, section 3.1), so with
    p = sigmoid(s): ``dL/ds = dL/d(w m) * w * p * (1 - p)``. The frozen weight gets no gradient.
    """

    @staticmethod
    def forward(ctx: Any, score: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """All three tensors have one shape; ``mask`` is bool."""
        # Both exist anyway. Keeping sigmoid(s) would cost as much as the weights, and saves little time.
        ctx.save_for_backward(score, weight)
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Gradient of the scores only."""
        score, weight = ctx.saved_tensors
        probability = torch.sigmoid(score)
        slope = probability.mul_(1 - probability)
        return (grads[0] * weight).mul_(slope), None, None


class MeanMask(torch.autograd.Function):
    """``w * p`` with p = sigmoid(s), and its gradient to the scores, `SampledMask`'s with another forward pass."""

    @staticmethod
    def forward(ctx: Any, score: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Both tensors have one shape."""
        ctx.save_for_backward(score, weight)
        return torch.sigmoid(score).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Gradient of the scores only."""
        score, weight = ctx.saved_tensors
        probability = torch.sigmoid(score)
        slope = probability.mul_(1 - probability)
        return (grads[0] * weight).mul_(slope), None


class SignMask(torch.autograd.Function):
    """``w * sign(s)``, and the straight-through gradient ``dL/ds = dL/d(w sign(s)) * w``; sign(0) = +1.

    Where w is 0, as pruned weights are, scores get no gradient. Source: arXiv 2206.04385 learns signs; how is our
    choice.
    """

    @staticmethod
    def forward(ctx: Any, score: torch.Tensor, weight: torch.Tensor, sign: torch.Tensor) -> torch.Tensor:
        """All three tensors have one shape; ``sign`` is int8, of the score."""
        ctx.save_for_backward(weight)
        return weight * sign

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Gradient of the scores only."""
        (weight,) = ctx.saved_tensors
        return grads[0] * weight, None, None


class MaskedWeight(nn.Module):
    """The mask of one frozen tensor: sampled anew in every training forward, or its mean, a fixed multiplier for
    evaluation, or the signs of the scores, for both.
    """

    def __init__(self, weight: torch.Tensor, generator: torch.Generator, remember: RememberBits) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.zeros_like(weight))
        self.generator, self.remember = generator, remember
        self.sampled = True
        """Whether training multiplies with a sample, or with its mean."""
        self.multiplier: torch.Tensor | None = None
        self.base: torch.Tensor | None = None
        """What signs multiply in the place of the frozen tensor; None where there is a mask instead."""
        self._holding = False
        self._held: torch.Tensor | None = None

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the masked weight."""
        if self._held is not None:
            return self._held
        if self.base is not None:
            masked = self._signed(self.base)
        else:
            masked = self._sample(weight) if self.multiplier is None else weight * self.multiplier
        if self._holding:
            self._held = masked
        return masked

    def hold(self) -> None:
        """Use one masked weight until `release`, however often it is read."""
        self._holding = True

    def release(self) -> None:
        """Forget the masked weight that is held."""
        self._holding, self._held = False, None

    def _sample(self, weight: torch.Tensor) -> torch.Tensor:
        if not self.sampled:
            mean: torch.Tensor = MeanMask.apply(self.score, weight)
            return mean
        uniform = torch.rand(weight.shape, generator=self.generator, device=weight.device)
        mask = uniform < torch.sigmoid(self.score.detach())
        masked: torch.Tensor = SampledMask.apply(self.score, weight, mask)
        self.remember.note(masked, weight, mask)
        return masked

    def _signed(self, base: torch.Tensor) -> torch.Tensor:
        sign = (self.score.detach() >= 0).to(torch.int8).mul_(2).sub_(1)
        signed: torch.Tensor = SignMask.apply(self.score, base, sign)
        self.remember.note(signed, base, sign)
        return signed


class Masks:
    """All masks of a model, addressed as one flat vector of d entries in a fixed order.

    Making one freezes every parameter of ``model`` and gives each named tensor a score.

    Parameters
    ----------
    model
        The module to mask. Calls of it are the forward passes that masked weights do not outlive.
    tensors
        ``(module, tensor name)`` pairs, in the order of the flat vector.
    """

    def __init__(self, model: nn.Module, tensors: Sequence[tuple[nn.Module, str]]) -> None:
        model.requires_grad_(False)
        device = next(model.parameters()).device
        self.generator = torch.Generator(device=device)
        remember = RememberBits(model)
        self._masks: list[MaskedWeight] = []
        self._places: list[tuple[Any, str]] = list(tensors)
        for module, name in tensors:
            mask = MaskedWeight(getattr(module, name), self.generator, remember)
            parametrize.register_parametrization(module, name, mask, unsafe=True)
            self._masks.append(mask)
        for attention in model.modules():
            if isinstance(attention, nn.MultiheadAttention):
                _hold_while_running(attention)
        self.segments: tuple[int, ...] = tuple(mask.score.numel() for mask in self._masks)
        """Entries of each masked tensor."""

    @property
    def places(self) -> list[tuple[nn.Module, str]]:
        """Module and name of each masked tensor, in the order of the flat vector."""
        return list(self._places)

    @property
    def d(self) -> int:
        """Masked weights in all."""
        return sum(self.segments)

    def parameters(self) -> list[nn.Parameter]:
        """The score tensors, for an optimiser."""
        return [mask.score for mask in self._masks]

    def load_scores(self, scores: torch.Tensor, sampled: bool = True) -> None:
        """Copy flat scores ``(d,)`` in, and sample masks from them from now on, or multiply with their means."""
        with torch.no_grad():
            for mask, part in self._split(scores):
                mask.score.copy_(part)
                mask.sampled, mask.multiplier, mask.base = sampled, None, None

    def load_signs(self, base: torch.Tensor, scores: torch.Tensor) -> None:
        """From now on, use the flat vector ``base`` ``(d,)``, 0 where it is pruned, times the signs of flat scores
        ``(d,)``, in the place of the frozen weights.
        """
        self.load_scores(scores)
        for mask, part in self._split(base):
            mask.base = part.to(mask.score.device, mask.score.dtype)

    @torch.no_grad()
    def weights(self) -> torch.Tensor:
        """The frozen masked weights, a flat float32 vector ``(d,)`` on the CPU."""
        return torch.cat([module.parametrizations[name].original.flatten().cpu() for module, name in self._places])

    @torch.no_grad()
    def scores(self) -> torch.Tensor:
        """The scores, a flat float32 vector ``(d,)`` on the CPU."""
        return torch.cat([mask.score.flatten().cpu() for mask in self._masks])

    def probabilities(self) -> torch.Tensor:
        """``sigmoid(s)`` as a flat float32 vector ``(d,)`` on the CPU."""
        with torch.no_grad():
            return torch.cat([torch.sigmoid(mask.score).flatten().cpu() for mask in self._masks])

    def set_multiplier(self, multiplier: torch.Tensor) -> None:
        """Multiply the frozen weights by a flat vector ``(d,)`` from now on: a mask of zeros and ones, or
        probabilities.
        """
        for mask, part in self._split(multiplier):
            mask.multiplier, mask.base = part.to(mask.score.device, mask.score.dtype), None

    def load_means(self, probabilities: torch.Tensor) -> list[torch.Tensor]:
        """As `set_multiplier`; returns what each tensor is multiplied with from now on, to differentiate by it."""
        self.set_multiplier(probabilities)
        return [mask.multiplier for mask in self._masks if mask.multiplier is not None]

    def unmask(self) -> None:
        """Use the frozen weights as they are from now on (every mask bit 1)."""
        for mask in self._masks:
            mask.multiplier, mask.base = torch.ones((), device=mask.score.device), None

    def _split(self, flat: torch.Tensor) -> Iterator[tuple[MaskedWeight, torch.Tensor]]:
        for mask, part in zip(self._masks, torch.split(flat, list(self.segments)), strict=True):
            yield mask, part.view_as(mask.score)


def _hold_while_running(attention: nn.MultiheadAttention) -> None:
    """Let an attention layer see one mask in a forward pass: it reads its projections several times, and those of its
    output without calling their module.
    """
    masks = [module for module in attention.modules() if isinstance(module, MaskedWeight)]

    def hold(*_: Any) -> None:
        for mask in masks:
            mask.hold()

    def release(*_: Any) -> None:
        for mask in masks:
            mask.release()

    attention.register_forward_pre_hook(hold)
    attention.register_forward_hook(release, always_call=True)
