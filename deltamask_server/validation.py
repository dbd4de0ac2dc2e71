"""How evenly the model serves the clients: figures over their accuracies on the images they have held out."""

from __future__ import annotations

import math
from typing import Any

from deltamask_server.tally import Tally

__all__ = ["fairness", "validation_entry"]


def fairness(tally: Tally) -> dict[str, float] | None:
    """Mean, worst decile and spread of the clients' accuracies, each client counting the same.

    The figures of Li et al., Fair Resource Allocation in Federated Learning (arXiv 1905.10497), with the standard
    deviation for the variance.

    Parameters
    ----------
    tally
        Replies to an evaluation. Clients that have held nothing out (``examples`` 0) do not count.

    Returns
    -------
    ``mean``; ``worst_decile``: mean of the lowest tenth, rounded up to whole clients; ``std``: standard deviation over
    all clients (divided by their number); all in [0, 1]. None without clients.
    """
    accuracies = sorted(values["accuracy"] for values in tally.metrics.values() if values["examples"] > 0)
    if not accuracies:
        return None
    n, worst = len(accuracies), math.ceil(len(accuracies) / 10)
    mean = math.fsum(accuracies) / n
    variance = math.fsum((accuracy - mean) ** 2 for accuracy in accuracies) / n
    return {"mean": mean, "worst_decile": math.fsum(accuracies[:worst]) / worst, "std": math.sqrt(variance)}


def validation_entry(tally: Tally) -> dict[str, Any]:
    """What results.json says of one round's validation."""
    return {
        **(fairness(tally) or {"mean": None, "worst_decile": None, "std": None}),
        "clients": {
            str(client): {"accuracy": values["accuracy"], "loss": values["loss"], "examples": int(values["examples"])}
            for client, values in sorted(tally.metrics.items())
        },
        "record_bytes": {str(client): size for client, size in sorted(tally.record_bytes.items())},
        "failed": dict(sorted(tally.dropped.items())),
    }
