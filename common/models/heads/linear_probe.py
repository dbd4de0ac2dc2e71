"""Head ``linear-probe``: each client fits a linear classifier on its own features, the server averages them (DeltaMask,
section 3.1).

Classes that a client does not have are pushed down by it, so that the average suffers where clients differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from common.models.heads.base import Head, HeadKind

__all__ = ["LinearProbe", "average_heads", "fit_linear_probe"]


@dataclass(frozen=True)
class LinearProbe(HeadKind):
    """Local linear probes, averaged by examples."""

    name: ClassVar[str] = "linear-probe"
    epochs: int
    """Steps over all local data."""
    learning_rate: float
    """Adam's step."""

    def max_bytes(self, classes: int, features: int) -> int:
        """The bytes of a head."""
        return Head.size(classes, features)

    def statistics(self, features: torch.Tensor, labels: torch.Tensor, classes: int) -> bytes:
        """The local probe."""
        return fit_linear_probe(features, labels, classes, self.epochs, self.learning_rate).to_bytes()

    def check(self, data: bytes, classes: int, features: int, examples: int) -> None:
        """Of the right size, all values finite and within a million."""
        Head.from_bytes(data, classes, features)

    def combine(self, replies: Sequence[tuple[bytes, int]], classes: int, features: int) -> Head:
        """The probes' mean."""
        return average_heads([(Head.from_bytes(data, classes, features), examples) for data, examples in replies])


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
    weight = torch.zeros(classes, features.shape[1], device=features.device, requires_grad=True)
    bias = torch.zeros(classes, device=features.device, requires_grad=True)
    optimiser = torch.optim.Adam([weight, bias], lr=learning_rate)
    for _ in range(epochs):
        optimiser.zero_grad()
        F.cross_entropy(F.linear(features, weight, bias), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return Head(weight.detach().cpu().numpy(), bias.detach().cpu().numpy())


def average_heads(heads: Sequence[tuple[Head, int]]) -> Head:
    """Mean of heads weighted by their numbers of examples, in float64 and in the order given."""
    total = sum(examples for _, examples in heads)
    weight = sum(head.weight.astype(np.float64) * (examples / total) for head, examples in heads)
    bias = sum(head.bias.astype(np.float64) * (examples / total) for head, examples in heads)
    return Head(np.asarray(weight, dtype=np.float32), np.asarray(bias, dtype=np.float32))
