"""Pruning before training and without data: which weights stay, by synaptic flow.

Tanaka et al.: Pruning neural networks without any data by iteratively conserving synaptic flow, arXiv 2006.05467. With
all weights made positive, R is the sum of the outputs for an input of ones, and a weight's saliency is ``w * dR/dw``:
what of R goes through it. One cut by these empties whole layers, so there are many small ones, each by new saliencies.
How ties are decided, and what is done with biases and norms, is our choice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.layers import FrozenBatchNormAct2d, RmsNorm, RmsNorm2d, SimpleNorm, SimpleNorm2d
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

from common.errors import ConfigError, ModelError
from common.models.backbone import Network

__all__ = ["OpenAttention", "prune"]

_NORMS = (nn.LayerNorm, nn.GroupNorm, _NormBase, FrozenBatchNormAct2d, RmsNorm, RmsNorm2d, SimpleNorm, SimpleNorm2d)
"""timm's and open_clip's other norms are subclasses of these; `_NormBase` is that of batch and instance norm."""
_DROPPED_BITS = 29
"""Of a float64's 53 significant ones: 24 are left."""


def prune(
    parts: Network, density: float, passes: int = 100, head_weight: NDArray[np.float32] | None = None
) -> NDArray[np.bool_]:
    """Choose the weights of a tail that stay.

    Parameters
    ----------
    parts
        From `common.models.backbone.build_parts`; they are left as they are. Their weights must be the drawn ones:
        magnitudes that are equal within a layer tie (`common.methods.hidenseek.signed_constant`).
    density
        Share of the weights that stay, in (0, 1].
    passes
        Cuts. After cut i, ``density ** (i / passes)`` of the weights are left (the paper's schedule and its 100).
    head_weight
        Weight of the head, float32 ``(classes, features)``, if it is to be pruned too. Otherwise R is the sum of the
        features.

    Returns
    -------
    bool ``(d,)`` in the order of the flat vector, or ``(d + classes * features,)`` with the head's weight behind it.
    Exactly ``round(density * length)`` are true. With density 1 nothing is computed.

    Raises
    ------
    ConfigError
        If density or passes are out of range.
    ModelError
        If no weight of some tensor is left, or no path from input to output; or if R is no finite number.

    Notes
    -----
    Scores are computed in float64 on the CPU. Biases count as 0. Norms are left out: they divide by what flows through
    them, and R would hardly depend on the weights below. Attention is the mean of its tokens' values, queries and keys:
    R proper does not depend on what is attended to, since all tokens are equal, and would empty queries and keys first.
    R does not depend on gates either, which are open: squeeze-and-excitation is emptied, so such a network is refused.
    So are shortcuts or branches of a residual network at low densities.
    """
    if not 0 < density <= 1 or passes < 1:
        raise ConfigError(f"density = {density}, passes = {passes}: density must be in (0, 1], passes at least 1")
    shapes = [(tensor.name, tensor.shape) for tensor in parts.tensors]
    if head_weight is not None:
        shapes.append(("the head's weight", head_weight.shape))
    kept = np.ones(sum(prod(shape) for _, shape in shapes), bool)
    if density == 1:
        return kept
    flow = _Flow(parts, head_weight)
    for i in range(1, passes + 1):
        kept = _cut(flow.saliencies(kept), kept, round(density ** (i / passes) * len(kept)))
    advice = f"density = {density}, passes = {passes}: raise density" + (", or passes to 100" if passes < 100 else "")
    first = 0
    for name, shape in shapes:
        if not kept[first : first + prod(shape)].any():
            raise ModelError(f"pruning leaves none of the {prod(shape):,} weights of {name} ({advice})")
        first += prod(shape)
    if not flow.saliencies(kept).any():
        raise ModelError(f"pruning leaves no path from the input to any output ({advice})")
    return kept


class _Flow:
    """A copy of the tail that computes R: positive float64 weights, no biases, no norms."""

    def __init__(self, parts: Network, head_weight: NDArray[np.float32] | None) -> None:
        spec, device = parts.spec, next(parts.model.parameters()).device
        with torch.no_grad():
            activations = parts.split.prefix(torch.zeros(1, spec.channels, spec.size, spec.size, device=device))
        self._ones = torch.ones(activations.shape, dtype=torch.float64)
        # Together, so that the copies share what these share: tails have methods of the model, too.
        model, self._tail, tensors = copy.deepcopy((parts.model, parts.split.tail, parts.tensors))
        for module in (model, self._tail):
            _leave_out_norms(module.to("cpu", torch.float64))
            for name, parameter in module.named_parameters():
                parameter.data = parameter.data.abs() * (not name.endswith("bias"))
        self._weights: list[torch.Tensor] = [getattr(tensor.module, tensor.attribute) for tensor in tensors]
        self._head: torch.Tensor | None = None
        if head_weight is not None:
            self._head = torch.from_numpy(np.abs(head_weight.astype(np.float64)))
            self._weights.append(self._head)
        self._magnitudes = torch.cat([weight.detach().flatten() for weight in self._weights])
        for weight in self._weights:
            weight.requires_grad_(True)

    def saliencies(self, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
        """``w * dR/dw`` of each weight while those that are not kept are 0."""
        with torch.no_grad():
            parts = torch.split(self._magnitudes * torch.from_numpy(kept), [w.numel() for w in self._weights])
            for weight, part in zip(self._weights, parts, strict=True):
                weight.copy_(part.view_as(weight))
        with torch.enable_grad(), OpenAttention():
            out = self._tail(self._ones)
            total = out.sum() if self._head is None else (out @ self._head.T).sum()
            slopes = torch.autograd.grad(total, self._weights, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            flat = torch.cat([(w * slope).flatten() for w, slope in zip(self._weights, slopes, strict=True)])
        saliencies: NDArray[np.float64] = flat.abs().numpy()
        if not np.isfinite(saliencies).all():
            raise ModelError(
                "pruning: the sum of the outputs for an input of ones is no finite number: without its norms this "
                "network amplifies too much. density = 1 prunes nothing; lenet, conv4 and conv6 can be pruned"
            )
        return saliencies


class OpenAttention(TorchFunctionMode):
    """Attention as the mean over all tokens of value, query and key.

    The softmax of equal tokens is uniform, but its logits grow until rounding decides between them.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Put the mean in the place of torch's attention; everything else is as it was."""
        if func is F.multi_head_attention_forward:  # what it calls never comes by here: (tokens, images, width)
            tokens, packed, out = args[0], args[5], args[11]
            flow = F.linear(tokens, packed).mean(0, keepdim=True)
            flow = flow.view(1, tokens.shape[1], 3, -1).mean(2)
            return F.linear(flow, out).expand_as(tokens), None
        if func is F.scaled_dot_product_attention:  # (..., tokens, width of a head)
            query, key, value = args[:3]
            flow = value.mean(-2, keepdim=True)
            if key.shape == value.shape and query.shape[:-2] == key.shape[:-2]:
                flow = (flow + key.mean(-2, keepdim=True) + query.mean(-2, keepdim=True)) / 3
            return flow.expand(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


def _cut(saliencies: NDArray[np.float64], kept: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """The ``count`` highest saliencies among those kept, ties to the lower position.

    Two weights that follow each other on a path without branches have equal saliencies but for rounding, which differs
    from machine to machine. So saliencies are compared by 24 significant bits.
    """
    # Only those kept are looked at: a weight may stay with saliency 0, and must not lose to one that went before.
    places = np.flatnonzero(kept)
    bits = saliencies[places].view(np.int64)  # floats >= 0 are in the order of their bits
    ranks = (bits + (1 << (_DROPPED_BITS - 1))) >> _DROPPED_BITS
    chosen = np.zeros_like(kept)
    if count:
        lowest = np.partition(ranks, len(ranks) - count)[len(ranks) - count]
        above = places[ranks > lowest]
        chosen[above] = True
        chosen[places[ranks == lowest][: count - len(above)]] = True
    return chosen


def _leave_out_norms(module: nn.Module) -> None:
    """Replace norms by the identity, or by the activation that timm has put into them."""
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, _NORMS):
                setattr(parent, name, getattr(child, "act", nn.Identity()))
