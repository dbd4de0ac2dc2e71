"""HideNseek beside training alone, FedAvg and LotteryFL: twenty clients of two classes each, a network from scratch.

    python -m benchmarks.experiments.hidenseek run --data ../shared/data    # an hour on two idle cores
    python -m benchmarks.experiments.hidenseek table
    python -m benchmarks.experiments.hidenseek plot                         # -> docs/images/hidenseek.png

Conv-4 at 16 pixels (849,472 weights with its head), 2,000 training images in all, 1,000 test images; every client is
tested on the test images of its two classes with the model that it has just trained (personalised), and the server's
model on all ten (global). One seed; `fedavg` and `lotteryfl` with one step, not searched.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.experiments.runs import ROOT, Plan, command_line, load

PICTURE = ROOT / "docs" / "images" / "hidenseek.png"

COMMON: dict[str, Any] = {
    "backbone": "conv4",
    "image-size": 16,
    "masked-blocks": 0,
    "head": "random",
    "train-limit": 2000,
    "test-limit": 1000,
    "partitioner": "pathological",
    "classes-per-client": 2,
    "personal-test": True,
    "num-server-rounds": 10,
    "local-epochs": 3,
    "batch-size": 16,
    "eval-every": 2,
    "node-wait-seconds": 600,
}
DATA = {"cifar10": "cifar10_10k.npz", "fashion": "fashion_mnist_20k.npz"}
NAMES = {"cifar10": "CIFAR-10", "fashion": "Fashion-MNIST"}
DENSITIES = (0.1, 0.5)
SIGNS: dict[str, Any] = {"method": "hidenseek", "sign-turn-share": 0.2}
PRUNED: dict[str, dict[str, Any]] = {
    "hidenseek": SIGNS,
    "local only": SIGNS | {"local-only": True},
    "lotteryfl": {"method": "lotteryfl", "weight-learning-rate": 1e-3},
}
FEDAVG = {"method": "fedavg", "weight-learning-rate": 1e-3}
SEARCH: dict[str, dict[str, Any]] = {
    "majority": {"sign-turn-share": 0.5},
    "majority, step 0.01": {"sign-turn-share": 0.5, "sign-learning-rate": 0.01},
    "majority, step 0.03": {"sign-turn-share": 0.5, "sign-learning-rate": 0.03},
    "majority, init 0.3": {"sign-turn-share": 0.5, "score-init": 0.3},
    "turn share 0.3": {"sign-turn-share": 0.3},
    "momentum 0.5": {"sign-momentum": 0.5},
    "init 0.3": {"score-init": 0.3},
    "scores uploaded": {"upload": "scores", "sign-turn-share": 0.5},  # the default: no sign is voted on
}
"""Changes from `SIGNS`; with none, and `local-only`, it is the comparison's. All clients have as many examples: to
weigh them changes nothing here."""


def _slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def plans() -> Iterator[Plan]:
    """Every run, seed 1: the search on Fashion-MNIST first, then the comparison."""
    for name, change in SEARCH.items():
        config = COMMON | SIGNS | change | {"dataset": DATA["fashion"], "density": 0.1}
        yield Plan(f"search-{_slug(name)}", config, supernodes=20)
    for data, file in DATA.items():
        for density in DENSITIES:
            for name, change in PRUNED.items():
                config = COMMON | change | {"dataset": file, "density": density}
                yield Plan(f"{data}-d{density:g}-{_slug(name)}", config, supernodes=20)
        yield Plan(f"{data}-fedavg", COMMON | FEDAVG | {"dataset": file}, supernodes=20)


def kept(data: str, density: float) -> dict[str, dict[str, Any]]:
    """What there is of one data set and density, by method."""
    names = {name: f"{data}-d{density:g}-{_slug(name)}" for name in PRUNED} | {"fedavg": f"{data}-fedavg"}
    found = {name: load("hidenseek", file) for name, file in names.items()}
    return {name: runs[0] for name, runs in found.items() if runs}


def megabytes(run: dict[str, Any], way: str) -> float:
    """All clients and rounds."""
    return sum(float(entry[way]["bytes"]) for entry in run["rounds"]) / 1e6


def row(run: dict[str, Any]) -> str:
    """Cells of one run."""
    last, rounds = run["rounds"][-1], run["rounds"]
    weights = run["model"].get("kept_parameters", run["model"]["masked_parameters"])
    bits = 8 * sum(entry["uplink"]["bytes"] / entry["clients"] for entry in rounds) / len(rounds) / weights
    accuracy = last["accuracy"] or {}
    whole = f"{100 * accuracy['mean']:.1f}" if "mean" in accuracy and not run["config"].get("local-only") else "-"
    seconds = sum(entry["seconds"] for entry in rounds)
    return (
        f"{100 * last['personal']['mean']:.1f} | {100 * last['personal']['worst_decile']:.1f} | {whole} "
        f"| {bits:.3f} | {megabytes(run, 'uplink'):,.2f} | {megabytes(run, 'downlink'):,.2f} | {seconds:,.0f} |"
    )


def table() -> str:
    """What is kept, as Markdown."""
    head = "| personalised, % | worst decile, % | global, % | uplink bits a weight | MB up | MB down | seconds |"
    lines = [f"| data, density | method {head}", "|---|---|---|---|---|---|---|---|---|"]
    for data in DATA:
        for density in DENSITIES:
            for name, run in kept(data, density).items():
                lines.append(f"| {NAMES[data]}, {density:g} | {name} | {row(run)}")
    lines += ["", f"| change {head}", "|---|---|---|---|---|---|---|---|"]
    for name in SEARCH:
        lines += [f"| {name} | {row(run)}" for run in load("hidenseek", f"search-{_slug(name)}")]
    return "\n".join(lines)


def plot() -> Path:
    """Personalised accuracy by round above, global below, a column for each data set and density."""
    columns = [(data, density) for data in DATA for density in DENSITIES if kept(data, density)]
    figure, axes = plt.subplots(
        2, len(columns), figsize=(3.2 * len(columns), 5.6), layout="constrained", squeeze=False, sharex=True
    )
    for column, (data, density) in enumerate(columns):
        for number, (name, run) in enumerate(kept(data, density).items()):
            evaluated = [entry for entry in run["rounds"] if "personal" in entry]
            style = {"marker": "o", "markersize": 3, "color": f"C{number}", "label": name}
            rounds = [entry["round"] for entry in evaluated]
            axes[0][column].plot(rounds, [100 * entry["personal"]["mean"] for entry in evaluated], **style)
            if name != "local only":
                axes[1][column].plot(rounds, [100 * entry["accuracy"]["mean"] for entry in evaluated], **style)
        axes[0][column].set(title=f"{NAMES[data]}, density {density:g}")
        axes[1][column].set(xlabel="round")
        for line in range(2):
            axes[line][column].grid(alpha=0.3)
            axes[line][column].spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("personalised accuracy, %")
    axes[1][0].set_ylabel("global accuracy, %")
    axes[0][0].legend(fontsize=8)
    figure.savefig(PICTURE, dpi=110)
    return PICTURE


if __name__ == "__main__":
    command_line("hidenseek", plans, table, plot)
