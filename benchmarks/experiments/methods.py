"""DeltaMask beside federated full fine-tuning of the same blocks: accuracy by round and by megabyte.

    python -m benchmarks.experiments.methods run --data ../shared/data      # two hours on two cores
    python -m benchmarks.experiments.methods table
    python -m benchmarks.experiments.methods plot                           # -> docs/images/methods.png

ViT-Tiny at 96 pixels, the last five of twelve blocks, ten clients, twelve rounds of one local epoch over 4,000 images
in all, 2,000 test images; CIFAR-10 and Fashion-MNIST, split nearly evenly (Dirichlet 10) and not at all so (0.1). The
head is `ridge` for all, since averaged probes start at half of its accuracy under 0.1. `fedavg` trains every parameter
of the blocks, and the head, by Adam in float32; of its learning rates the one with the best last round counts, chosen
on the test images, in its favour.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.experiments.runs import ROOT, Plan, command_line, load

PICTURE = ROOT / "docs" / "images" / "methods.png"

COMMON = {
    "weights": "vit_tiny_patch16_224.safetensors",
    "backbone": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "image-size": 96,
    "train-limit": 4000,
    "test-limit": 2000,
    "partitioner": "dirichlet",
    "num-server-rounds": 12,
    "local-epochs": 1,
    "batch-size": 16,
    "eval-every": 3,
    "head": "ridge",
}
TRAINING = {
    "score-optimiser": "adam",
    "local-masks": "sample",
    "aggregation": "beta",
    "calibration": 0.0,
    "vacant-distillation": 0.0,
}
"""The paper's training and aggregation."""
FIRST_VERSION = TRAINING | {"validation-fraction": 0.0}
"""What the defaults were when the files here were made (November 2026)."""
PAPER = TRAINING | {"codec": "fuse8", "fuse-candidates": False, "kappa": 0.8, "kappa-final": 0.4}
"""As conf/paper.toml has it."""
DATA = {"cifar10": "cifar10_10k.npz", "fashion": "fashion_mnist_20k.npz"}
NAMES = {"cifar10": "CIFAR-10", "fashion": "Fashion-MNIST"}
ALPHAS = (10.0, 0.1)
METHODS: dict[str, dict[str, Any]] = {
    # the default shares of flips sent, 0.8 to 0.4, cost 0.13 bpp at 25 steps a round
    "fuse8": FIRST_VERSION | {"codec": "fuse8", "kappa": 0.5, "kappa-final": 0.3},
    # with a budget of 0.007 bpp, to which finished updates were shrunk; there is no such key any more
    "relative": FIRST_VERSION | {"codec": "relative", "downlink": "relay"},
}
RATES = (1e-4, 3e-4, 3e-5)


def plans() -> Iterator[Plan]:
    """Every run, seed 1, then what was tried where DeltaMask is behind."""
    fedavg = {"method": "fedavg", "calibration": 0.0, "validation-fraction": 0.0}
    rates = {f"fedavg-{rate:g}": fedavg | {"weight-learning-rate": rate} for rate in RATES}
    for alpha in ALPHAS:
        for name, config in (METHODS | rates).items():
            for data, file in DATA.items():
                common = COMMON | {"dataset": file, "dirichlet-alpha": alpha}
                yield Plan(_file(data, alpha, name), common | config)
    for data, file in DATA.items():
        config = FIRST_VERSION | {"dataset": file, "dirichlet-alpha": 0.1, "codec": "fuse8", "learning-rate": 0.03}
        yield Plan(f"ablation-{data}-a0.1-step-0.03", COMMON | config)
        config = METHODS["fuse8"] | {"dataset": file, "dirichlet-alpha": 0.1, "head-finetune-rounds": 12}
        yield Plan(f"ablation-{data}-a0.1-head-trained", COMMON | config)
        config = METHODS["relative"] | {"dataset": file, "dirichlet-alpha": 0.1, "initial-theta": 0.99}
        yield Plan(f"ablation-{data}-a0.1-theta-0.99", COMMON | config)
    even = COMMON | FIRST_VERSION | {"dataset": DATA["cifar10"], "dirichlet-alpha": 10.0, "codec": "fuse8"}
    even |= {"kappa": 0.8, "kappa-final": 0.4}
    yield Plan("ablation-cifar10-a10-kappa-0.8-0.4", even | {"kappa": 0.8, "kappa-final": 0.4})
    yield Plan("ablation-cifar10-a10-kappa-0.6-0.3", even | {"kappa": 0.6, "kappa-final": 0.3})
    yield Plan("ablation-cifar10-a10-batch-32", even | {"batch-size": 32})


def last(run: dict[str, Any]) -> float:
    """Accuracy after the last round."""
    return float(run["rounds"][-1]["accuracy"]["mean"])


def runs_of(data: str, alpha: float) -> dict[str, dict[str, Any]]:
    """What is kept of one data set and split: by method, the best of the learning rates for `fedavg`."""
    found = {name: runs[0] for name in METHODS if (runs := load("methods", _file(data, alpha, name)))}
    rates = [run for rate in RATES for run in load("methods", _file(data, alpha, f"fedavg-{rate:g}"))]
    return found | ({"fedavg": max(rates, key=last)} if rates else {})


def _file(data: str, alpha: float, name: str) -> str:
    return f"{data}-a{alpha:g}-{name.replace(', ', '-').replace(' ', '-')}"


def megabytes(run: dict[str, Any]) -> list[float]:
    """Both directions and all clients up to each round, head included."""
    total, sums = run["linear_probe"]["bytes"], []
    for entry in run["rounds"]:
        total += entry["uplink"]["bytes"] + entry["downlink"]["bytes"]
        sums.append(total / 1e6)
    return sums


def table() -> str:
    """What is kept, as Markdown."""
    lines = [
        "| data, split | method | head alone, % | after 12 rounds, % | uplink bpp | downlink bpp | MB in all |",
        "|---|---|---|---|---|---|---|",
    ]
    for data in DATA:
        for alpha in ALPHAS:
            for name, run in runs_of(data, alpha).items():
                rate = f" (step {run['config']['weight-learning-rate']:g})" if name == "fedavg" else ""
                up, down = (
                    sum(entry[way]["bpp"] for entry in rounds) / len(rounds)
                    for way, rounds in (("uplink", run["rounds"]), ("downlink", run["rounds"][1:]))
                )
                head = 100 * run["linear_probe"]["accuracy"]
                lines.append(
                    f"| {NAMES[data]}, Dirichlet {alpha:g} | {name}{rate} | {head:.1f} "
                    f"| {100 * last(run):.1f} | {up:.4f} | {down:.3f} | {megabytes(run)[-1]:,.1f} |"
                )
    return "\n".join(lines)


def plot() -> Path:
    """Accuracy by round above, by megabytes below, a column for each data set and split."""
    columns = [(data, alpha) for data in DATA for alpha in ALPHAS if runs_of(data, alpha)]
    figure, axes = plt.subplots(2, len(columns), figsize=(3.2 * len(columns), 5.6), layout="constrained", squeeze=False)
    for column, (data, alpha) in enumerate(columns):
        for number, (name, run) in enumerate(runs_of(data, alpha).items()):
            evaluated = [i for i, entry in enumerate(run["rounds"]) if entry["accuracy"]]
            accuracy = [100 * run["rounds"][i]["accuracy"]["mean"] for i in evaluated]
            sums = megabytes(run)
            start = 100 * run["linear_probe"]["accuracy"]
            style = {"marker": "o", "markersize": 3, "color": f"C{number}", "label": name}
            axes[0][column].plot([0, *(i + 1 for i in evaluated)], [start, *accuracy], **style)
            axes[1][column].plot([sums[i] for i in evaluated], accuracy, **style)
        axes[0][column].set(title=f"{NAMES[data]}, Dirichlet {alpha:g}", xlabel="round")
        axes[1][column].set(xlabel="MB, both ways, all clients", xscale="log")
        for row in range(2):
            axes[row][column].grid(alpha=0.3)
            axes[row][column].spines[["top", "right"]].set_visible(False)
    for row in range(2):
        axes[row][0].set_ylabel("test accuracy, %")
    axes[0][-1].legend(fontsize=8)
    figure.savefig(PICTURE, dpi=110)
    return PICTURE


if __name__ == "__main__":
    command_line("methods", plans, table, plot)
