"""Heads made of the moments of all features: what clients send of them, and how it is checked and merged."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from common.models.heads.base import FittedHead, Head, Statistics
from common.models.heads.moments import (
    Moments,
    max_moment_bytes,
    measure_moments,
    merge_moments,
    pack_moments,
    unpack_moments,
)
from common.models.heads.screening import screen_moments

if TYPE_CHECKING:
    import torch

__all__ = ["MomentHead"]


class MomentHead(FittedHead):
    """A head in closed form: the same for every split of the data, since the moments of all features are."""

    matrix: ClassVar[bool]
    """Whether it takes the whole scatter matrix, or its trace alone."""

    @abstractmethod
    def head_of(self, moments: Moments) -> Head:
        """The head of all examples' moments."""

    def max_bytes(self, classes: int, features: int) -> int:
        """Counts, means and scatter of a client that has every class."""
        return max_moment_bytes(classes, features, self.matrix)

    def statistics(self, features: torch.Tensor, labels: torch.Tensor, classes: int) -> bytes:
        """The features' moments."""
        return pack_moments(measure_moments(features, labels, classes, self.matrix))

    def check(self, data: bytes, classes: int, features: int, examples: int) -> None:
        """Possible moments of that many examples."""
        unpack_moments(data, classes, features, examples, self.matrix)

    def judge(self, replies: Mapping[int, Statistics], classes: int, features: int) -> dict[int, str]:
        """Moments of other features, or of other classes, than the others'."""
        return screen_moments(
            {
                client: unpack_moments(sent.data, classes, features, sent.examples, self.matrix)
                for client, sent in replies.items()
            }
        )

    def combine(self, replies: Sequence[Statistics], classes: int, features: int) -> Head:
        """The head of the merged moments."""
        return self.head_of(merge_moments(replies, classes, features, self.matrix))
