"""What one client may do, whatever the method: how many examples it counts for, and which head statistics count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Self

from common.config.shared import LimitsSection
from common.models.heads import FittedHead, Statistics
from common.verdict import Verdict, many_examples

__all__ = ["ClientLimits"]


@dataclass(frozen=True)
class ClientLimits:
    """Bounds what a client that lies can do; none by default.

    Parameters
    ----------
    most_examples
        In medians over the clients; 0: no limit.
    screen_heads
        Compare head statistics with each other.
    """

    most_examples: float = 0.0
    screen_heads: bool = False

    @classmethod
    def from_config(cls, keys: LimitsSection) -> Self:
        """By the run's keys."""
        return cls(keys.most_examples, keys.screen_heads)

    def judge(
        self, kind: FittedHead, statistics: Mapping[int, Statistics], shape: tuple[int, int]
    ) -> dict[int, Verdict]:
        """Of each client's statistics for a head of that kind and shape (classes, features)."""
        wrong = kind.judge(statistics, *shape) if self.screen_heads else {}
        # The median is of those that count: nobody makes it larger by statistics that do not.
        usual = median(sent.examples for client, sent in statistics.items() if client not in wrong)
        return {
            client: Verdict(0.0, wrong[client]) if client in wrong else self.counted(sent.examples, usual)[1]
            for client, sent in statistics.items()
        }

    def counted(self, examples: int, usual: float) -> tuple[int, Verdict]:
        """Examples that a client counts for, if the median client has the ``usual`` number (0: unknown)."""
        most = self.most_examples * usual
        if not most or examples <= most:
            return examples, Verdict()
        return max(1, int(most)), Verdict(most / examples, many_examples(examples, usual))
