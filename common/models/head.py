"""The linear classifier on frozen features: fitted once by every client, averaged once by the server, then frozen
(DeltaMask, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from common.errors import BadMetric

__all__ = ["Head", "average_heads", "fit_linear_probe"]

_LARGEST = 1e6
"""No value of a head is larger: with float32's own limits one client could make everybody's logits infinite, and with
them every score NaN."""


@dataclass(frozen=True, eq=False)
class Head:
    """``logits = features @ weight.T + bias``; float32, weight ``(classes, features)``, bias ``(classes,)``."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, classes)`` of features ``(n, features)``."""
        weight = torch.from_numpy(self.weight).to(features.device)
        return F.linear(features, weight, torch.from_numpy(self.bias).to(features.device))

    def to_bytes(self) -> bytes:
        """Weight, then bias, as little-endian float32."""
        return self.weight.astype("<f4").tobytes() + self.bias.astype("<f4").tobytes()

    @staticmethod
    def from_bytes(data: bytes, classes: int, features: int) -> Head:
        """Read what `to_bytes` wrote.

        Raises
        ------
        BadMetric
            If the size is wrong, or a value is not finite or above a million.
        """
        if len(data) != 4 * classes * (features + 1):
            raise BadMetric(f"a head of {len(data)} bytes; {4 * classes * (features + 1)} expected")
        values = np.frombuffer(data, "<f4").astype(np.float32)
        if not (np.abs(values) <= _LARGEST).all():  # NaN compares with nothing
            raise BadMetric(f"the head holds values that are not finite, or above {_LARGEST:g}")
        return Head(values[: classes * features].reshape(classes, features), values[classes * features :])


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
