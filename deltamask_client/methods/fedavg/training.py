"""Local full fine-tuning of the same blocks, of all weights or of some: the clients' part of ``fedavg`` and
``lotteryfl``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from common.models.activations import Activations
from common.models.backbone import Backbone
from common.models.heads import Head
from common.models.tail_weights import TailWeights
from deltamask_client.epochs import Fit, Progress, Recipe, run_epochs, silent

__all__ = ["WeightResult", "train_weights"]


@dataclass(frozen=True)
class WeightResult:
    """What one client learnt in one round."""

    tail: NDArray[np.float32]
    """Parameters of the blocks, `common.models.tail_weights.TailWeights`."""
    head: Head
    fit: Fit


def train_weights(
    backbone: Backbone,
    head: Head,
    activations: Activations,
    labels: NDArray[np.int64],
    tail: NDArray[np.float32],
    recipe: Recipe,
    *,
    seed: int,
    kept: NDArray[np.bool_] | None = None,
    progress: Progress = silent,
) -> WeightResult:
    """Train every parameter of the last blocks, and the head, from the global ones.

    Parameters
    ----------
    backbone
        The network; it is frozen again, and as it was, afterwards.
    head, tail
        Global head, and global parameters of the blocks, float32 ``(count,)``.
    activations, labels, recipe, seed, progress
        As for `deltamask_client.methods.deltamask.training.train_masks`.
    kept
        Which of the blocks' parameters, the head's weight and its bias, in this order, are trained, bool ``(count,)``.
        The others stay exactly as they are given. None: all are trained.
    """
    weights = TailWeights(backbone)
    weight, bias = (
        torch.from_numpy(values.copy()).to(activations.device).requires_grad_() for values in (head.weight, head.bias)
    )
    with weights.borrowed(tail, trained=True):
        parameters = [*weights.parameters, weight, bias]
        with _held_still(parameters, kept):
            fit = run_epochs(
                backbone.tail,
                lambda features: F.linear(features, weight, bias),
                parameters,
                activations,
                labels,
                recipe,
                seed=seed,
                progress=progress,
            )
        trained = Head(weight.detach().cpu().numpy(), bias.detach().cpu().numpy())
        return WeightResult(weights.read(), trained, fit)


@contextmanager
def _held_still(parameters: Sequence[torch.Tensor], kept: NDArray[np.bool_] | None) -> Iterator[None]:
    """Set gradients to 0 where they are not to act. Moments of Adam and momentum of SGD start at 0 in every round and
    stay there, so that no step moves these weights; nothing decays weights.
    """
    handles = []
    if kept is not None:
        parts = torch.split(torch.from_numpy(kept), [p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            act = partial(torch.Tensor.masked_fill, mask=~part.view_as(parameter).to(parameter.device), value=0)
            handles.append(parameter.register_hook(act))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
