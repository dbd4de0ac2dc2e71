"""What privacy costs: the method `private` by epsilon, number of clients and images, beside runs that hide nothing.

    python -m benchmarks.experiments.privacy run --data ../shared/data     # two hours of one core
    python -m benchmarks.experiments.privacy table

The demo's network on Fashion-MNIST: 10,000 images, nearly evenly split among 10 clients or 100, 4,000 test images, five
rounds; delta is 1e-5. Epsilon is that of all that a client sends, the head's statistics with the rounds. One seed, and
noise that can be repeated. Beside it the same federation without privacy, by the default method of the app and with the
same kind of head.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import Any

from benchmarks.experiments.runs import Plan, command_line, load

__all__ = ["plans"]

COMMON: dict[str, Any] = {
    "dataset": "fashion_mnist_20k.npz",
    "train-limit": 10_000,
    "validation-fraction": 0.0,
    "partitioner": "dirichlet",
    "dirichlet-alpha": 10.0,
    "head": "mean",
    "num-server-rounds": 5,
    "eval-every": 5,
}
PRIVATE: dict[str, Any] = {"method": "private", "screen-heads": False}
EPSILONS = (1.0, 4.0, 8.0, 64.0)
CLIENTS = (10, 100)


def plans() -> Iterator[Plan]:
    """Every run, what matters most first."""
    for clients in CLIENTS:
        for epsilon in reversed(EPSILONS):
            config = COMMON | PRIVATE | {"privacy-epsilon": epsilon}
            yield Plan(f"private-{epsilon:g}-k{clients}", config, clients, {"noise-seed": 1})
        yield Plan(f"deltamask-k{clients}", COMMON | {"local-epochs": 1}, clients)


def table() -> str:
    """What is kept, as Markdown."""
    lines = [
        "| clients | images each | epsilon | head, % | after the rounds, % | uplink bpp |",
        "|---|---|---|---|---|---|",
    ]
    for clients in CLIENTS:
        names = [f"private-{epsilon:g}" for epsilon in EPSILONS] + ["deltamask"]
        for name in names:
            for run in load("privacy", f"{name}-k{clients}"):
                epsilon = f"{run['config']['privacy-epsilon']:g}" if name != "deltamask" else "none: not private"
                uplink = fmean(entry["uplink"]["bpp"] for entry in run["rounds"])
                lines.append(
                    f"| {clients} | {run['config']['train-limit'] // clients} | {epsilon} "
                    f"| {100 * run['linear_probe']['accuracy']:.1f} "
                    f"| {100 * run['rounds'][-1]['accuracy']['mean']:.1f} | {uplink:.4f} |"
                )
    return "\n".join(lines)


if __name__ == "__main__":
    command_line("privacy", plans, table)
