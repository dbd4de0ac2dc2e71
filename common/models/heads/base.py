"""The head, and what every kind of head is: statistics that a client sends once, and how the server combines them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from common.config.section import Section, Sections
from common.errors import BadMetric

if TYPE_CHECKING:
    import torch

__all__ = ["LARGEST", "FittedHead", "Head", "HeadKind", "Statistics", "softmax_head"]

LARGEST = 1e6
"""No value of a head or of a feature is larger: with float32's own limits one client could make everybody's logits
infinite, and with them every score NaN."""
_UNSEEN_BEHIND = 10.0
"""How far, in nats, a class that nobody has an example of stays behind the best of the others: odds of e^-10."""


@dataclass(frozen=True, eq=False)
class Head:
    """``logits = features @ weight.T + bias``; float32, weight ``(classes, features)``, bias ``(classes,)``."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, classes)`` of features ``(n, features)``."""
        import torch  # here, as in every kind of head: a config knows their names, and does not compute

        weight = torch.from_numpy(self.weight).to(features.device)
        return torch.nn.functional.linear(features, weight, torch.from_numpy(self.bias).to(features.device))

    def to_bytes(self) -> bytes:
        """Weight, then bias, as little-endian float32."""
        return self.weight.astype("<f4").tobytes() + self.bias.astype("<f4").tobytes()

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """As files have it, beside other tensors: ``head.weight`` and ``head.bias``."""
        return {"head.weight": self.weight, "head.bias": self.bias}

    @staticmethod
    def from_tensors(tensors: Mapping[str, NDArray[np.float32]]) -> Head:
        """The inverse of `tensors`; others are passed over."""
        return Head(tensors["head.weight"], tensors["head.bias"])

    @staticmethod
    def size(classes: int, features: int) -> int:
        """Bytes of `to_bytes`."""
        return 4 * classes * (features + 1)

    @staticmethod
    def from_bytes(data: bytes, classes: int, features: int) -> Head:
        """Read what `to_bytes` wrote.

        Raises
        ------
        BadMetric
            If the size is wrong, or a value is not finite or above a million.
        """
        if len(data) != Head.size(classes, features):
            raise BadMetric(f"a head of {len(data)} bytes; {Head.size(classes, features)} expected")
        values = np.frombuffer(data, "<f4").astype(np.float32)
        if not (np.abs(values) <= LARGEST).all():  # NaN compares with nothing
            raise BadMetric(f"the head holds values that are not finite, or above {LARGEST:g}")
        return Head(values[: classes * features].reshape(classes, features), values[classes * features :])


class Statistics(NamedTuple):
    """What a client has sent for the head."""

    data: bytes
    examples: int
    """As the client claims."""
    factor: float = 1.0
    """Of its weight, in (0, 1]."""


class HeadKind(ABC):
    """One way to come by the head."""

    name: ClassVar[str]
    """Its value of the run key ``head``."""
    title: ClassVar[str]
    """What people call such a head."""
    sections: ClassVar[tuple[type[Section], ...]] = ()
    """Sections of the run config that it reads."""
    fitted: ClassVar[bool]
    """Whether it is fitted to the features of frozen weights (`FittedHead`), or a layer like the others, whose weight a
    method may train and prune.
    """

    @classmethod
    def from_config(cls, run: Sections) -> Self:
        """As a run config has it."""
        return cls()

    @abstractmethod
    def start(self, classes: int, features: int, seed: int) -> Head:
        """The head before anybody has fitted or trained it."""


class FittedHead(HeadKind):
    """A head on features that stay where they are.

    A client calls `statistics` once. The server calls `check` on every reply as it comes, `judge` on all that passed,
    and `combine` on those that count, in the order of client ids: a sum of floats depends on its order, and arrival is
    chance.
    """

    fitted: ClassVar[bool] = True

    def start(self, classes: int, features: int, seed: int) -> Head:
        """Zeros."""
        return Head(np.zeros((classes, features), np.float32), np.zeros(classes, np.float32))

    @abstractmethod
    def max_bytes(self, classes: int, features: int) -> int:
        """Most bytes that `statistics` may take."""

    @abstractmethod
    def statistics(self, features: torch.Tensor, labels: torch.Tensor, classes: int) -> bytes:
        """What a client sends of its features, float32 ``(n, features)``, and labels, int64 ``(n,)``; n is at least
        1.
        """

    @abstractmethod
    def check(self, data: bytes, classes: int, features: int, examples: int) -> None:
        """Refuse what no client could have measured, before it can spoil the head of all.

        Raises
        ------
        BadMetric
            If the size is wrong, a value is not finite or out of range, or they contradict each other or
            ``examples``, the number of images that the client reports.
        """

    def judge(self, replies: Mapping[int, Statistics], classes: int, features: int) -> dict[int, str]:
        """Clients whose statistics are possible by themselves, but wrong beside the others': with the reason. By
        default nobody's.
        """
        return {}

    @abstractmethod
    def combine(self, replies: Sequence[Statistics], classes: int, features: int) -> Head:
        """The head of at least one client's statistics, checked before."""


def softmax_head(
    weight: NDArray[np.float64], bias: NDArray[np.float64], counts: NDArray[np.int64], temperature: float
) -> Head:
    """Turn class scores into a head: scores divided by a temperature are its logits.

    The mean of all logits is taken off each, which no softmax notices: those of the classes seen sum to 0 everywhere,
    so that the best of them is never negative. A class without examples gets weight 0 and bias -10, and is
    behind it for every input (our choice).

    Parameters
    ----------
    weight, bias, temperature
        Of the scores ``x @ weight.T + bias``, ``(classes, features)`` and ``(classes,)``; a positive number.
    counts
        Examples of each class ``(classes,)``; at least one in all.
    """
    seen = counts > 0
    weight = np.where(seen[:, None], weight - weight[seen].mean(0), 0.0) / temperature
    bias = np.where(seen, (bias - bias[seen].mean()) / temperature, -_UNSEEN_BEHIND)
    # Features on a scale of their own may ask for larger values than a client takes: a softer head is still one.
    excess = max(1.0, np.abs(weight).max() / LARGEST, np.abs(bias).max() / LARGEST)
    # In C order, which files of tensors need: the weight may come as a transpose.
    return Head((weight / excess).astype(np.float32, order="C"), (bias / excess).astype(np.float32))
