"""Which way a site's images would move some probabilities, each image with the same voice.

A gradient for each image is wanted, where training needs their sum. Of a linear layer with input x and gradient g of
its output, an image's gradient by the weight is the sum over its tokens of ``g x^T`` (Goodfellow, arXiv 1510.01799),
which takes no longer than the sum over images does; a convolution is a linear layer on patches. Where anything else has
a masked weight, as the packed projection of ``nn.MultiheadAttention``, images are taken one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from common.models.activations import Activations
from common.models.backbone import Backbone
from common.models.heads import Head
from common.models.masking import Masks
from common.theta import probabilities
from deltamask_client.epochs import Progress, silent

__all__ = ["mean_direction"]

_BATCH = 16
_LENGTH = 1 - 1e-6
"""Of an image's vector: rounding must not make it longer than 1."""


def mean_direction(
    backbone: Backbone,
    head: Head,
    activations: Activations,
    labels: NDArray[np.int64],
    theta: NDArray[np.uint16],
    positions: NDArray[np.int64],
    progress: Progress = silent,
) -> NDArray[np.float64]:
    """Mean over the images of minus the gradient of their cross-entropy by the probabilities, each of length 1.

    So one image in the place of another moves the mean by at most 2 / n, however large gradients are: there is no
    bound to choose (automatic clipping, Bu et al., arXiv 2206.07136).

    Parameters
    ----------
    backbone, head
        The frozen network; its masks are overwritten.
    activations, labels
        Prefix outputs of the local images, and their classes ``(n,)``.
    theta
        Global probabilities on the 16-bit grid, ``(d,)``: the weights are multiplied with them.
    positions
        The entries asked for, int64 ``(k,)``, ascending.
    progress
        Called after every batch.

    Returns
    -------
    float64 ``(k,)``, of length 1 at most.
    """
    device = activations.device
    weight, bias = (torch.tensor(values, device=device) for values in (head.weight, head.bias))
    layers = _layers(backbone.masks, torch.from_numpy(probabilities(theta)), positions)
    size = _BATCH if all(layer.known for layer in layers) else 1
    total = torch.zeros(len(positions), dtype=torch.float64, device=device)
    for start in range(0, len(labels), size):
        chosen = np.arange(start, min(start + size, len(labels)))
        tokens = activations.batch(chosen).detach().requires_grad_()  # then every layer's output has a gradient
        with _recording(layers):
            features = backbone.tail(tokens).float()
            target = torch.from_numpy(labels[chosen]).to(device)
            loss = F.cross_entropy(F.linear(features, weight, bias), target, reduction="sum")
            found = _gradients(loss, tokens, layers).double()
        lengths = found.norm(dim=1, keepdim=True)
        usable = torch.isfinite(lengths) & (lengths > 0)
        total -= torch.where(usable, found * (_LENGTH / lengths), 0).sum(0)
        progress(1, int(chosen[-1]) + 1, loss.detach() / len(chosen))
    backbone.masks.unmask()
    mean: NDArray[np.float64] = (total / max(1, len(labels))).cpu().numpy()
    return mean


@dataclass(eq=False)
class _Layer:
    """One masked tensor."""

    module: nn.Module
    known: bool
    weight: torch.Tensor
    """The frozen one, flat, at the positions asked for."""
    at: torch.Tensor
    """These positions, within the tensor."""
    leaf: torch.Tensor
    """What the weight is multiplied with."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    """Input and gradient of the output, of every call of the module."""

    def record(self, _: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        """A forward hook."""
        given = inputs[0].detach()
        output.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: self.seen.append((given, gradient))
        )

    def of_images(self, images: int) -> torch.Tensor:
        """Gradients by the probabilities asked for, ``(images, k)``."""
        found = sum(self._product(x.detach(), g, images) for x, g in self.seen)
        assert isinstance(found, torch.Tensor)
        return found.flatten(1)[:, self.at] * self.weight

    def _product(self, x: torch.Tensor, g: torch.Tensor, images: int) -> torch.Tensor:
        if isinstance(self.module, nn.Conv2d):
            conv = self.module
            assert not isinstance(conv.padding, str)
            patches = F.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
            return torch.einsum("bol,bcl->boc", g.flatten(2), patches)
        x, g = x.reshape(images, -1, x.shape[-1]), g.reshape(images, -1, g.shape[-1])
        return torch.einsum("bto,bti->boi", g, x)


def _layers(masks: Masks, means: torch.Tensor, positions: NDArray[np.int64]) -> list[_Layer]:
    """Every masked tensor, multiplied with the means of its masks from now on."""
    ends = np.cumsum(masks.segments)
    layers = []
    for (module, name), leaf, end in zip(masks.places, masks.load_means(means), ends, strict=True):
        first, last = np.searchsorted(positions, [end - leaf.numel(), end])
        at = torch.from_numpy(positions[first:last] - (end - leaf.numel())).to(leaf.device)
        parametrizations: Any = module.parametrizations
        weight = parametrizations[name].original.detach().flatten()[at]
        layer = _Layer(module, _known(module, name), weight, at, leaf)
        leaf.requires_grad_(not layer.known)
        layers.append(layer)
    return layers


def _known(module: nn.Module, name: str) -> bool:
    """Whether an image's gradient is a product of what goes in and what comes back."""
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    # The output projection of nn.MultiheadAttention is used without its module being called.
    return isinstance(module, nn.Linear) and not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)


@contextmanager
def _recording(layers: list[_Layer]) -> Iterator[None]:
    handles = [layer.module.register_forward_hook(layer.record) for layer in layers if layer.known]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer in layers:
            layer.seen.clear()


def _gradients(loss: torch.Tensor, tokens: torch.Tensor, layers: list[_Layer]) -> torch.Tensor:
    """For each image, ``(images, k)``."""
    others = [layer for layer in layers if not layer.known]
    _, *rest = torch.autograd.grad(loss, [tokens, *(layer.leaf for layer in others)])
    alone = {id(layer): gradient.flatten()[layer.at][None] for layer, gradient in zip(others, rest, strict=True)}
    parts = [alone[id(layer)] if id(layer) in alone else layer.of_images(len(tokens)) for layer in layers]
    return torch.cat(parts, dim=1)
