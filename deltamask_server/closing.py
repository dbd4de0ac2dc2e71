"""When a round has enough replies: of whom it asks, whom it waits for, and how long."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from common.config.shared import RoundsSection

__all__ = ["Closing"]


@dataclass(frozen=True)
class Closing:
    """How many clients a round asks, and when it stops waiting for them.

    A round that does not wait for everybody depends on who is fast, so that two runs of one seed may differ; which
    replies counted is in ``results.json``.

    Parameters
    ----------
    quorum
        Usable replies without which there is no round.
    participation
        Share of the connected clients whose replies a round wants, rounded up, at least ``quorum``.
    over_sample
        Share of clients asked beyond those; the first replies count.
    deadline
        Seconds after which a quorum is enough; 0: never.
    """

    quorum: int = 2
    participation: float = 1.0
    over_sample: float = 0.0
    deadline: float = 0.0

    @classmethod
    def from_config(cls, keys: RoundsSection) -> Self:
        """By the run's keys."""
        return cls(keys.min_clients, keys.participation, keys.over_sample, keys.round_deadline_seconds)

    def wanted(self, online: int) -> int:
        """Usable replies that end a round of so many connected clients."""
        return min(online, max(self.quorum, math.ceil(self.participation * online - 1e-9)))

    def asked(self, online: int) -> int:
        """Clients that it asks."""
        return min(online, math.ceil(self.wanted(online) * (1 + self.over_sample) - 1e-9))

    def enough(self, usable: int, wanted: int, seconds: float) -> bool:
        """Whether to close a round that has been open for so long."""
        late = self.deadline and seconds >= self.deadline
        return usable >= (self.quorum if late else wanted)
