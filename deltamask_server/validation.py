"""How evenly the clients are served: figures over their accuracies, of the global model on the images they have held
out, or of their own models on test images.
"""

from __future__ import annotations

import math
from typing import Any

from common.messages import BALANCED, HELD_OUT
from deltamask_server.tally import Tally

__all__ = ["fairness", "held_out_tally", "personal_entry", "pooled", "validation_entry"]

_NONE = {"mean": None, "worst_decile": None, "std": None}


def fairness(tally: Tally, accuracy: str = "accuracy", images: str = "examples") -> dict[str, float] | None:
    """Mean, worst decile and spread of the clients' accuracies, each client counting the same.

    The figures of Li et al., Fair Resource Allocation in Federated Learning (arXiv 1905.10497), with the standard
    deviation for the variance.

    Parameters
    ----------
    tally
        Replies to an evaluation, or to a training message.
    accuracy, images
        The metrics that hold them. Clients without images, as those that have held nothing out, do not count.

    Returns
    -------
    ``mean``; ``worst_decile``: mean of the lowest tenth, rounded up to whole clients; ``std``: standard deviation over
    all clients (divided by their number); all in [0, 1]. None without clients.
    """
    accuracies = sorted(values[accuracy] for values in tally.metrics.values() if values.get(images, 0) > 0)
    if not accuracies:
        return None
    n, worst = len(accuracies), math.ceil(len(accuracies) / 10)
    mean = math.fsum(accuracies) / n
    variance = math.fsum((accuracy - mean) ** 2 for accuracy in accuracies) / n
    return {"mean": mean, "worst_decile": math.fsum(accuracies[:worst]) / worst, "std": math.sqrt(variance)}


def held_out_tally(tally: Tally) -> Tally:
    """Of replies to a training message, what they say of the model that came with it, as replies to an evaluation."""
    metrics = {
        client: {name.removeprefix("held_out_"): values[name] for name in HELD_OUT}
        for client, values in tally.metrics.items()
        if HELD_OUT[0] in values
    }
    return Tally(tuple(metrics), metrics=metrics, most_examples=tally.most_examples)


def pooled(tally: Tally) -> tuple[float, float] | None:
    """Accuracy and mean loss on all images held out, each counting the same; None without images."""
    if not any(values["examples"] for values in tally.metrics.values()):
        return None
    return tally.mean("accuracy"), tally.mean("loss")


def validation_entry(tally: Tally) -> dict[str, Any]:
    """What results.json says of one round's validation."""
    found = pooled(tally)
    return {
        "pooled": found and found[0],
        "pooled_loss": found and found[1],
        **(fairness(tally) or _NONE),
        "clients": {
            str(client): {
                "accuracy": values["accuracy"],
                "loss": values["loss"],
                "examples": int(values["examples"]),
                **{name: values[name] for name in BALANCED if name in values},
            }
            for client, values in sorted(tally.metrics.items())
        },
        "record_bytes": {str(client): size for client, size in sorted(tally.record_bytes.items())},
        "failed": dict(sorted(tally.dropped.items())),
    }


def personal_entry(tally: Tally) -> dict[str, Any] | None:
    """What results.json says of the clients' own models in one round; None where nobody has tested one."""
    figures = fairness(tally, "personal", "tested")
    return figures and {
        **figures,
        "clients": {
            str(client): {"accuracy": values["personal"], "examples": int(values["tested"])}
            for client, values in sorted(tally.metrics.items())
            if "tested" in values
        },
    }
