"""The local objective as a seam: what is minimised, and by which steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from common.config.run import RunConfig
from common.config.shared import MomentumSection, OptimiserSection

__all__ = [
    "CROSS_ENTROPY",
    "Loss",
    "Objective",
    "OptimiserOf",
    "Steps",
    "adam",
    "calibrated",
    "kl_penalty",
    "optimiser_of",
    "remembering",
    "sgd",
    "together",
    "vacant_classes",
]

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Of logits ``(b, classes)``, labels ``(b,)`` and which of the site's images they are ``(b,)``: a scalar."""


class Steps(Protocol):
    """What training needs of an optimiser."""

    def zero_grad(self) -> None:
        """Forget the gradients."""

    def step(self) -> object:
        """Move the parameters."""


OptimiserOf = Callable[[Sequence[torch.Tensor]], Steps]
"""Makes a fresh optimiser for a round: moments of the last one would describe a model that aggregation has replaced."""

_SMOOTHING = 1e-3
"""Share of a site's images that count as spread over all classes: a class that it lacks has a finite logarithm."""


def _nothing() -> None:
    return


def cross_entropy(logits: torch.Tensor, target: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The paper's loss."""
    return F.cross_entropy(logits, target)


@dataclass(frozen=True)
class Objective:
    """What local training minimises."""

    loss: Loss = cross_entropy
    add_gradient: Callable[[], None] = _nothing
    """Called between the backward pass and the step: adds to the gradients of the parameters what does not come from
    the loss, as a penalty, a proximal term or a control variate does.
    """


CROSS_ENTROPY = Objective()
"""The paper's."""


def calibrated(labels: NDArray[np.int64], classes: int, strength: float = 1.0) -> Loss:
    """Cross-entropy of ``logits + strength * log(class frequency)``.

    A site that has few classes lowers, by plain cross-entropy, the logits of all others, whatever the image: that is
    the drift of sites that differ. With the logarithm of its own class frequencies added, the bias of its data is
    explained already, and only what tells its classes apart is learnt (Menon et al., arXiv 2007.07314; for federations
    FedLC, arXiv 2209.00189).

    Parameters
    ----------
    labels
        Of the site's images, ``(n,)``.
    classes
        Number of outputs.
    strength
        0 is plain cross-entropy.
    """
    if strength == 0 or len(labels) == 0:
        return cross_entropy
    counts = np.bincount(labels, minlength=classes) + _SMOOTHING * len(labels) / classes
    shift = torch.from_numpy((strength * np.log(counts / counts.sum())).astype(np.float32))

    def loss(logits: torch.Tensor, target: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits + shift.to(logits.device), target)

    return loss


def vacant_classes(labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Classes that a site has no image of, ascending."""
    return np.flatnonzero(np.bincount(labels, minlength=classes) == 0)


def remembering(loss: Loss, vacant: NDArray[np.int64], received: torch.Tensor, strength: float) -> Loss:
    """A loss, and what the received model says of the classes that a site lacks.

    Nothing at a site tells its vacant classes apart, or from its own: the calibrated loss leaves that alone, and
    training moves it all the same. So the received model's opinion of it is kept, for each of the site's images: the
    probabilities of the vacant classes, and that of all others together. Among those the site learns. FedVLS (arXiv
    2401.02329) keeps the opinion among vacant classes; the place of the others in it is our choice.

    Parameters
    ----------
    loss
        Of the classes that there are.
    vacant
        The others, at least one.
    received
        Logits of the model as it was received, for all images of the site, ``(n, classes)``.
    strength
        Of the cross-entropy that is added.
    """
    own = np.setdiff1d(np.arange(received.shape[1]), vacant)

    def merged(logits: torch.Tensor) -> torch.Tensor:
        return torch.cat([logits[:, own].logsumexp(1, keepdim=True), logits[:, vacant]], dim=1)

    opinion = F.softmax(merged(received), dim=1)

    def both(logits: torch.Tensor, target: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return loss(logits, target, rows) + strength * F.cross_entropy(merged(logits), opinion[rows])

    return both


def kl_penalty(scores: Sequence[torch.Tensor], strength: float) -> Callable[[], None]:
    """Adds the gradient of ``strength * KL(Bern(sigmoid(s)) || Bern(sigmoid(s0)))``, in nats, where s0 are the scores
    now: ``strength * p (1 - p) (s - s0)``.

    Parameters
    ----------
    scores
        The parameters.
    strength
        Of the penalty in each step; 0 adds nothing.
    """
    if strength == 0:
        return _nothing
    start = [score.detach().clone() for score in scores]

    @torch.no_grad()
    def add() -> None:
        for score, before in zip(scores, start, strict=True):
            p = torch.sigmoid(score)
            assert score.grad is not None
            score.grad.add_((p * (1 - p)).mul_(score - before), alpha=strength)

    return add


def adam(learning_rate: float) -> OptimiserOf:
    """Adam, the paper's optimiser."""
    return lambda parameters: torch.optim.Adam(parameters, lr=learning_rate, fused=True)


def sgd(learning_rate: float, momentum: float = 0.9) -> OptimiserOf:
    """Stochastic gradient descent with momentum."""
    return lambda parameters: torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum, fused=True)


def together(first: OptimiserOf, count: int, second: OptimiserOf) -> OptimiserOf:
    """One optimiser for the first ``count`` parameters, and another one for the rest."""

    @dataclass(frozen=True)
    class Both:
        parts: tuple[Steps, Steps]

        def zero_grad(self) -> None:
            for part in self.parts:
                part.zero_grad()

        def step(self) -> None:
            for part in self.parts:
                part.step()

    return lambda parameters: Both((first(parameters[:count]), second(parameters[count:])))


def optimiser_of(run: RunConfig, learning_rate: float) -> OptimiserOf:
    """The run's optimiser of weights or signs, by the key ``optimiser``, with a step of the method's."""
    if run[OptimiserSection].optimiser == "sgd":
        return sgd(learning_rate, run[MomentumSection].momentum)
    return adam(learning_rate)
