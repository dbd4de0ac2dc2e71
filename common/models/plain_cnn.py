"""Small CNNs that start from random weights instead of pre-trained ones: LeNet-5, Conv-4 and Conv-6.

LeNet-5 is LeCun et al. 1998 as it is built today (ReLU, max pooling); Conv-4 and Conv-6 are those of Frankle and Carbin
(arXiv 1803.03635) and Ramanujan et al. (arXiv 1911.13299). None has norms or biases (our choice: everything is in
weights that can be masked), and none has a classifier: the last hidden layer is the features, the head stands behind.

Their weights are drawn from the shared integers of `common.uniforms`, one stream a tensor, so that a seed gives the
same float32 on every machine.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from itertools import count
from typing import NamedTuple

import torch
from torch import nn

from common.errors import ModelError
from common.models.fit_weights import load_weights
from common.models.input_spec import InputSpec
from common.models.kaiming import kaiming_uniform
from common.models.presets import Source
from common.models.weight_files import DEFAULT, local_file, random_seed
from common.uniforms import stream_key

__all__ = ["PlainCNN", "build_plain"]


class _Conv(NamedTuple):
    outputs: int
    pooled: bool = False
    """Whether 2 x 2 max pooling follows."""
    kernel: int = 3
    padding: int = 1


class _Plan(NamedTuple):
    spec: InputSpec
    """Input at its own size, normalised as the images it was made for: MNIST or CIFAR-10."""
    convs: tuple[_Conv, ...]
    linears: tuple[int, ...]
    """Outputs of each; those of the last are the features."""

    def side(self, size: int) -> int:
        """Side of the last maps for images of a size; 0 if they are too small, or if pooling would cut off a row."""
        for conv in self.convs:
            size += 2 * conv.padding - conv.kernel + 1
            if conv.pooled and size % 2:
                return 0
            size //= 1 + conv.pooled
        return max(size, 0)


_MNIST = InputSpec(1, 28, (0.1307,), (0.3081,))
_CIFAR = InputSpec(3, 32, (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
_CONV_4 = (_Conv(64), _Conv(64, True), _Conv(128), _Conv(128, True))
_PLANS = {
    "lenet": _Plan(_MNIST, (_Conv(6, True, 5, 2), _Conv(16, True, 5, 0)), (120, 84)),
    "conv4": _Plan(_CIFAR, _CONV_4, (256, 256)),
    "conv6": _Plan(_CIFAR, (*_CONV_4, _Conv(256), _Conv(256, True)), (256, 256)),
}


class PlainCNN(nn.Module):
    """Blocks one after the other: a convolution or a linear map, ReLU, and pooling where there is any.

    Parameters
    ----------
    plan
        What blocks there are.
    size
        Side of the images.
    """

    def __init__(self, plan: _Plan, size: int) -> None:
        super().__init__()
        blocks: list[nn.Sequential] = []
        width, side = plan.spec.channels, plan.side(size)
        for conv in plan.convs:
            layer = nn.Conv2d(width, conv.outputs, conv.kernel, padding=conv.padding, bias=False)
            pool = {"pool": nn.MaxPool2d(2)} if conv.pooled else {}
            blocks.append(_block(conv=layer, relu=nn.ReLU(), **pool))
            width = conv.outputs
        width *= side * side
        for number, outputs in enumerate(plan.linears):
            flat = {"flat": nn.Flatten()} if number == 0 else {}
            blocks.append(_block(**flat, linear=nn.Linear(width, outputs, bias=False), relu=nn.ReLU()))
            width = outputs
        self.blocks, self.features = nn.Sequential(*blocks), width

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images ``(n, channels, size, size)`` to features ``(n, features)``."""
        features: torch.Tensor = self.blocks(images)
        return features


def build_plain(source: Source, weights: str, image_size: int) -> tuple[PlainCNN, InputSpec]:
    """Build one of the networks.

    Parameters
    ----------
    source
        ``lenet``, ``conv4`` or ``conv6``.
    weights
        ``random:SEED``, ``random`` or ``default`` (both are seed 0), or the path of a file.
    image_size
        Side of the input: a multiple of 4 (``conv6``: of 8; ``lenet``: from 12 on), or 0 for 28 (``lenet``) or 32.

    Raises
    ------
    ModelError
        If the size or the seed is another, or the file does not fit.
    """
    name, plan = source.model, _PLANS[source.model]
    size = image_size or plan.spec.size
    if not plan.side(size):
        step = 2 ** sum(conv.pooled for conv in plan.convs)
        least = next(multiple for multiple in count(step, step) if plan.side(multiple))
        raise ModelError(f"image-size = {size}: {name} takes multiples of {step} from {least} on (or 0)")
    model = PlainCNN(plan, size)
    seed = 0 if weights == DEFAULT else random_seed(weights)
    if seed is not None:
        _draw(model, name, seed)
        return model, replace(plan.spec, size=size)
    load_weights(model, local_file(weights), f"{name} at image-size = {size}")
    return model, replace(plan.spec, size=size)


def _block(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


@torch.no_grad()
def _draw(model: PlainCNN, name: str, seed: int) -> None:
    for key, weight in model.named_parameters():
        stream = stream_key(seed, 0, 0, f"weights/{name}/{key}")  # before any round, and of no client
        weight.copy_(torch.from_numpy(kaiming_uniform(stream, tuple(weight.shape))))
