"""Head ``linear-probe``: each client fits a linear classifier on its own features, the server averages them (DeltaMask,
section 3.1).

Classes that a client does not have are pushed down by it, so that the average suffers where clients differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from pydantic import Field

from common.config.section import Section, Sections
from common.models.heads.base import FittedHead, Head, Statistics
from common.models.heads.screening import screen_heads

if TYPE_CHECKING:
    import torch

__all__ = ["LinearProbe", "LinearProbeSection", "average_heads", "fit_linear_probe"]


class LinearProbeSection(Section):
    """Of the head ``linear-probe``."""

    title: ClassVar[str] = "Head `linear-probe`"
    under: ClassVar[str] = "head"

    head_epochs: int = Field(300, ge=1, description="`linear-probe`: epochs in the head round.")
    head_learning_rate: float = Field(0.03, gt=0, description="`linear-probe`: Adam's step in the head round.")


@dataclass(frozen=True)
class LinearProbe(FittedHead):
    """Local linear probes, averaged by examples."""

    name: ClassVar[str] = "linear-probe"
    title: ClassVar[str] = "linear probe"
    sections: ClassVar[tuple[type[Section], ...]] = (LinearProbeSection,)
    epochs: int = 300
    """Steps over all local data."""
    learning_rate: float = 0.03
    """Adam's step."""

    @classmethod
    def from_config(cls, run: Sections) -> Self:
        """By head-epochs and head-learning-rate."""
        keys = run[LinearProbeSection]
        return cls(keys.head_epochs, keys.head_learning_rate)

    def max_bytes(self, classes: int, features: int) -> int:
        """The bytes of a head."""
        return Head.size(classes, features)

    def statistics(self, features: torch.Tensor, labels: torch.Tensor, classes: int) -> bytes:
        """The local probe."""
        return fit_linear_probe(features, labels, classes, self.epochs, self.learning_rate).to_bytes()

    def check(self, data: bytes, classes: int, features: int, examples: int) -> None:
        """Of the right size, all values finite and within a million."""
        Head.from_bytes(data, classes, features)

    def judge(self, replies: Mapping[int, Statistics], classes: int, features: int) -> dict[int, str]:
        """Probes far larger than the median client's, or that point away from the others'."""
        return screen_heads({client: Head.from_bytes(sent.data, classes, features) for client, sent in replies.items()})

    def combine(self, replies: Sequence[Statistics], classes: int, features: int) -> Head:
        """The probes' mean."""
        return average_heads(
            [(Head.from_bytes(sent.data, classes, features), sent.examples * sent.factor) for sent in replies]
        )


def fit_linear_probe(
    features: torch.Tensor, labels: torch.Tensor, classes: int, epochs: int, learning_rate: float
) -> Head:
    """Fit a head by full-batch Adam from zero: no randomness, and all clients start from the same point, which makes
    their average meaningful.

    Parameters
    ----------
    features, labels
        float32 ``(n, features)`` and int64 ``(n,)``.
    classes
        Number of outputs.
    epochs, learning_rate
        Steps over all local data, and Adam's step.
    """
    import torch
    import torch.nn.functional as F

    weight = torch.zeros(classes, features.shape[1], device=features.device, requires_grad=True)
    bias = torch.zeros(classes, device=features.device, requires_grad=True)
    optimiser = torch.optim.Adam([weight, bias], lr=learning_rate)
    for _ in range(epochs):
        optimiser.zero_grad()
        F.cross_entropy(F.linear(features, weight, bias), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return Head(weight.detach().cpu().numpy(), bias.detach().cpu().numpy())


def average_heads(heads: Sequence[tuple[Head, float]]) -> Head:
    """Mean of heads weighted by their numbers of examples, in float64 and in the order given."""
    total = sum(examples for _, examples in heads)
    weight = sum(head.weight.astype(np.float64) * (examples / total) for head, examples in heads)
    bias = sum(head.bias.astype(np.float64) * (examples / total) for head, examples in heads)
    return Head(np.asarray(weight, dtype=np.float32), np.asarray(bias, dtype=np.float32))
