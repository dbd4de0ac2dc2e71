"""The local objective as a seam: what is minimised, and by which steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from common.config.run import RunConfig
from common.config.shared import MomentumSection

__all__ = ["CROSS_ENTROPY", "Objective", "OptimiserOf", "Parameters", "adam", "optimiser_of", "sgd"]

Parameters = Sequence[torch.Tensor] | list[dict[str, Any]]
"""As torch's optimisers take them."""
OptimiserOf = Callable[[Parameters], torch.optim.Optimizer]
"""Makes a fresh optimiser for a round: moments of the last one would describe a model that aggregation has replaced."""


def _nothing() -> None:
    return


@dataclass(frozen=True)
class Objective:
    """What local training minimises."""

    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.cross_entropy
    """Of logits ``(b, classes)`` and labels ``(b,)``: a scalar."""
    add_gradient: Callable[[], None] = _nothing
    """Called between the backward pass and the step: adds to the gradients of the parameters what does not come from
    the loss, as a penalty, a proximal term or a control variate does.
    """


CROSS_ENTROPY = Objective()
"""The paper's."""


def adam(learning_rate: float) -> OptimiserOf:
    """Adam, the paper's optimiser."""
    return lambda parameters: torch.optim.Adam(parameters, lr=learning_rate, fused=True)


def sgd(learning_rate: float, momentum: float = 0.9) -> OptimiserOf:
    """Stochastic gradient descent with momentum."""
    return lambda parameters: torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum, fused=True)


def optimiser_of(run: RunConfig, learning_rate: float) -> OptimiserOf:
    """The run's optimiser, by the key ``optimiser``, with a step of the method's."""
    if run.training.optimiser == "sgd":
        return sgd(learning_rate, run[MomentumSection].momentum)
    return adam(learning_rate)
