"""What each codec costs and what it does to accuracy: ViT-Tiny on CIFAR-10, one simulation for each codec and seed.

    python -m benchmarks.experiments.codecs run --data ../shared/data      # two hours on two cores
    python -m benchmarks.experiments.codecs table                          # a Markdown table of what is kept
    python -m benchmarks.experiments.codecs plot                           # -> docs/images/codecs.png

Ten clients, twelve rounds of one local epoch (13 steps of 16 images) over 2,000 images in all, 2,000 test images, the
last five of twelve blocks masked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.experiments.methods import FIRST_VERSION
from benchmarks.experiments.runs import ROOT, Plan, command_line, load

PICTURE = ROOT / "docs" / "images" / "codecs.png"

COMMON = {
    "dataset": "cifar10_10k.npz",
    "weights": "vit_tiny_patch16_224.safetensors",
    "backbone": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "image-size": 96,
    "masked-blocks": 5,
    "train-limit": 2000,
    "partitioner": "dirichlet",
    "num-server-rounds": 12,
    "local-epochs": 1,
    "batch-size": 16,
    "eval-every": 6,
    "head": "linear-probe",
}
KAPPA = {"kappa": 0.8, "kappa-final": 0.4}
CODECS: dict[str, dict[str, Any]] = {
    "exact": {"codec": "exact"} | KAPPA,
    "relative": {"codec": "relative"},
    "fuse8": {"codec": "fuse8"} | KAPPA,
    "fuse8-all": {"codec": "fuse8", "fuse-candidates": False} | KAPPA,
    "fuse16": {"codec": "fuse16"} | KAPPA,
    "bitmap": {"codec": "bitmap"},
    "relay": {"codec": "relative", "downlink": "relay"},
}
"""`relative` had a budget of 0.007 bpp, and those of `BUDGETS`, to which finished updates were shrunk; there is no such
key any more."""
BUDGETS = (0.0005, 0.001, 0.002, 0.004, 0.01, 0.02)


def plans() -> Iterator[Plan]:
    """Every run, what matters most first."""

    def plan(label: str, codec: dict[str, Any], alpha: float, seed: int) -> Plan:
        return Plan(
            f"{label}-a{alpha:g}-s{seed}", COMMON | FIRST_VERSION | codec | {"dirichlet-alpha": alpha, "seed": seed}
        )

    compared = [name for name in CODECS if name != "relay"]
    yield from (plan(name, CODECS[name], 10.0, 1) for name in compared)
    yield from (plan(name, CODECS[name], 10.0, seed) for seed in (2, 3) for name in ("exact", "relative"))
    yield plan("relay", CODECS["relay"], 10.0, 1)
    yield from (plan(name, CODECS[name], 0.1, 1) for name in compared)
    yield from (plan(name, CODECS[name], 10.0, seed) for seed in (2, 3) for name in compared[2:])


@dataclass(frozen=True)
class Row:
    """One codec under one split: means over its seeds."""

    label: str
    runs: int
    accuracies: tuple[float, ...]
    probe: float
    uplink: float
    """Bits a parameter and client, mean of all rounds."""
    downlink: float
    """The same from the second round on: the first sends the constant that theta starts from."""
    megabytes: float
    """All clients, rounds and both directions, head included."""

    @property
    def accuracy(self) -> float:
        """Mean of the mean-mask accuracies after the last round."""
        return sum(self.accuracies) / self.runs


def row(label: str, alpha: float) -> Row | None:
    """Read what is kept of a codec, None if nothing is."""
    kept = load("codecs", f"{label}-a{alpha:g}-s*")
    if not kept:
        return None

    def mean(values: Iterable[float]) -> float:
        found = list(values)
        return sum(found) / len(found)

    return Row(
        label,
        len(kept),
        tuple(run["rounds"][-1]["accuracy"]["mean"] for run in kept),
        mean(run["linear_probe"]["accuracy"] for run in kept),
        mean(entry["uplink"]["bpp"] for run in kept for entry in run["rounds"]),
        mean(entry["downlink"]["bpp"] for run in kept for entry in run["rounds"][1:]),
        mean(
            1e-6
            * (run["linear_probe"]["bytes"] + sum(e["uplink"]["bytes"] + e["downlink"]["bytes"] for e in run["rounds"]))
            for run in kept
        ),
    )


def labels() -> list[str]:
    """Every codec and budget, in the table's order."""
    return [*CODECS, *(f"relative-{budget:g}" for budget in BUDGETS)]


def table() -> str:
    """What is kept, as Markdown."""
    lines = [
        "| codec | split | runs | accuracy, % | uplink bpp | downlink bpp | MB in all |",
        "|---|---|---|---|---|---|---|",
    ]
    for alpha in (10.0, 0.1):
        rows = [found for label in labels() if (found := row(label, alpha))]
        if rows:
            lines.append(f"| linear probe | Dirichlet {alpha:g} | | {100 * rows[0].probe:.1f} | | | |")
        for found in rows:
            spread = (
                f" ({100 * min(found.accuracies):.1f} to {100 * max(found.accuracies):.1f})" if found.runs > 1 else ""
            )
            lines.append(
                f"| `{found.label}` | Dirichlet {alpha:g} | {found.runs} | {100 * found.accuracy:.1f}{spread} "
                f"| {found.uplink:.4f} | {found.downlink:.3f} | {found.megabytes:.1f} |"
            )
    return "\n".join(lines)


def plot() -> Path:
    """Accuracy against uplink bits, and megabytes by direction."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    rows = {label: found for label in labels() if (found := row(label, 10.0))}
    budgets = sorted((found for label, found in rows.items() if label.startswith("relative")), key=lambda f: f.uplink)
    left.plot(
        [f.uplink for f in budgets], [100 * f.accuracy for f in budgets], color="C0", label="relative, by target-bpp"
    )
    for number, (label, found) in enumerate(rows.items()):
        if label in CODECS and label != "relay":
            low, high = 100 * min(found.accuracies), 100 * max(found.accuracies)
            color = "C0" if label == "relative" else f"C{number + 1}"
            left.vlines(found.uplink, low, high, color=color, alpha=0.4)
            left.plot(found.uplink, 100 * found.accuracy, "o", color=color, label=label)
    left.plot([f.uplink for f in budgets], [100 * f.accuracy for f in budgets], ".", color="C0")
    left.axhline(100 * next(iter(rows.values())).probe, color="grey", linestyle=":", label="linear probe")
    left.set(
        title="Accuracy against uplink (bars: range of the seeds)", xscale="log", xlabel="uplink, bits a parameter"
    )
    left.set_ylabel("test accuracy, %")
    left.legend(fontsize=7)
    bars = [
        (label, row(label, 10.0)) for label in ("fuse8-all", "fuse8", "fuse16", "bitmap", "exact", "relative", "relay")
    ]
    shown = [(label, found) for label, found in bars if found]
    names = ["relative, relay" if label == "relay" else label for label, _ in shown]
    right.barh(names, [found.uplink for _, found in shown], color="C0", label="uplink")
    right.barh(names, [f.downlink for _, f in shown], left=[f.uplink for _, f in shown], color="C1", label="downlink")
    right.set(title="Bits a parameter, client and round, both ways", xlabel="from the second round on")
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=110)
    return PICTURE


if __name__ == "__main__":
    command_line("codecs", plans, table, plot)
