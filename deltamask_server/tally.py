"""What happened to the replies of one round, by client."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from statistics import median

from common.messages import FIT
from common.verdict import Verdict

__all__ = ["LATE", "NO_REPLY", "Tally"]

NO_REPLY, LATE = "no-reply", "late"
"""Of clients that had not answered when the time was up, and when the round was closed before."""


@dataclass
class Tally:
    """Accepted and failed replies of one round.

    A client that was asked ends either in ``payload_bytes`` or in ``failures``, never in both: a second reply of an
    accepted client is counted in ``dropped`` only.
    """

    asked: tuple[int, ...]
    """Clients that a message went to, ascending."""
    payload_bytes: dict[int, int] = field(default_factory=dict)
    """Bytes of each accepted payload, and of the head where it is trained."""
    record_bytes: dict[int, int] = field(default_factory=dict)
    """Bytes of each accepted reply's records as Flower counts them."""
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    """Metrics of each accepted reply."""
    failures: dict[int, str] = field(default_factory=dict)
    """Reason of each client whose reply could not be used."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Number of dropped replies by reason, clients without a reply included."""
    limited: dict[int, Verdict] = field(default_factory=dict)
    """Clients whose replies were accepted and do not count in full."""
    most_examples: float = 0.0
    """Of a client in a mean, in medians; 0: no limit."""
    missing: str = NO_REPLY
    """Reason of those who have not answered."""

    def drop(self, client: int | None, reason: str) -> None:
        """Count a dropped reply; ``client`` is None when it answers no message of this round."""
        self.dropped[reason] += 1
        if client is not None and client not in self.payload_bytes:
            self.failures[client] = reason

    def close(self) -> None:
        """Count whoever was asked and did not answer."""
        for client in self.asked:
            if client not in self.payload_bytes and client not in self.failures:
                self.drop(client, self.missing)

    @property
    def usual_examples(self) -> float:
        """Median number of examples of the accepted replies that have any; 0 where none has."""
        return float(median([n for values in self.metrics.values() if (n := values["examples"])] or [0]))

    @property
    def fit(self) -> dict[str, float]:
        """Mean loss and accuracy, where clients have said how well it went."""
        return {name: self.mean(name) for name in FIT if all(name in values for values in self.metrics.values())}

    def mean(self, name: str) -> float:
        """Mean of a metric over accepted replies, weighted by examples; 0 without replies."""
        most = self.most_examples * self.usual_examples or math.inf
        weighted = [(values[name], min(values["examples"], most)) for values in self.metrics.values()]
        total = sum(weight for _, weight in weighted)
        # Exact, so that it does not depend on the order in which replies come.
        return math.fsum(value * weight for value, weight in weighted) / total if total else 0.0
