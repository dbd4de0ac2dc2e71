"""What one round did; the numbers behind a line of ``rounds.jsonl``."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import MetricRecord

from deltamask_server.tally import Tally

__all__ = ["RoundReport"]


@dataclass(frozen=True)
class RoundReport:
    """Who answered what, what travelled, and how long it took."""

    server_round: int
    tally: Tally
    downlink_bytes: dict[int, int]
    """Bytes of the global model and class list sent to each client, for training and evaluation together."""
    digest: bytes
    """Of the global model after the round."""
    evaluation: MetricRecord | None
    seconds: dict[str, float]
    """Wall time by phase: configure, train (waiting, with decoding and folding in between), aggregate (that decoding
    and folding alone), evaluate, validate (the clients' evaluation).
    """
    validation: Tally | None = None
    """Accuracies that clients found on images they have held out, where a message of its own asked for them."""
    earlier: tuple[int, Tally] | None = None
    """An earlier round (0: the head alone), and the accuracies of its model that clients found as this round began."""
    payload: tuple[int, bytes] | None = None
    """A client, and its payload as it came: an example to look at. None where all were too large to keep."""
