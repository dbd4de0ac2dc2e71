"""What results.json says of replies and answers, as JSON has it."""

from __future__ import annotations

from typing import Any

from common.models.accuracy import Scored
from common.models.class_figures import class_figures
from deltamask_server.tally import Tally

__all__ = ["broken", "by_client", "figures", "replies", "traffic"]

_MOST_CLASSES = 100
"""In a confusion matrix that is written."""


def figures(scored: Scored, confusion: bool = False) -> dict[str, Any]:
    """Each class counting the same; the confusion matrix where it can be read."""
    of_classes = class_figures(scored.confusion)
    found: dict[str, Any] = {
        "balanced_accuracy": of_classes.balanced_accuracy,
        "macro_f1": of_classes.macro_f1,
        "recall": list(of_classes.recall),
    }
    if confusion and len(of_classes.recall) <= _MOST_CLASSES:
        found["confusion"] = scored.confusion.tolist()
    return found


def by_client(values: dict[int, int]) -> dict[str, int]:
    """With the clients' ids as texts, ascending."""
    return {str(client): values[client] for client in sorted(values)}


def traffic(payload_bytes: dict[int, int], masked: int) -> dict[str, Any]:
    """Bytes by client, and their mean in bits for each masked parameter."""
    mean = sum(payload_bytes.values()) / len(payload_bytes) if payload_bytes else 0.0
    return {"payload_bytes": by_client(payload_bytes), "bpp": 8 * mean / masked}


def replies(tally: Tally) -> dict[str, Any]:
    """How many were asked and answered, why the others count for nothing, and whose replies do not count in full."""
    limited = {str(client): one._asdict() for client, one in sorted(tally.limited.items())}
    return {
        "asked": len(tally.asked),
        "ok": len(tally.payload_bytes),
        "failed": dict(sorted(tally.dropped.items())),
        "failed_clients": {str(client): tally.failures[client] for client in sorted(tally.failures)},
        **({"limited": limited} if limited else {}),
    }


def broken(tally: Tally) -> dict[str, int]:
    """Images that could not be read, by the clients that have some."""
    counts = {client: int(values.get("broken", 0)) for client, values in sorted(tally.metrics.items())}
    return {str(client): count for client, count in counts.items() if count}
