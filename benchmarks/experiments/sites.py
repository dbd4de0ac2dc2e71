"""DeltaMask and federated full fine-tuning where sites differ, and where they do not: three seeds each.

    python -m benchmarks.experiments.sites run --data ../shared/data --jobs 2   # fifteen hours of one core in all
    python -m benchmarks.experiments.sites table
    python -m benchmarks.experiments.sites plot                                 # -> docs/images/sites.png

ViT-Tiny at 96 pixels, the last five of twelve blocks, ten clients, twelve rounds of one local epoch over 4,000 images
in all, 2,000 test images; CIFAR-10 and Fashion-MNIST; split nearly evenly (Dirichlet 10), very unevenly (Dirichlet
0.1), and with two classes a client. The head is `ridge` for all. `deltamask` is the default of the app, the same for
every data set and split; FedAvg gets three steps, with and without the calibrated loss, and the best of them counts, by
the last round of seed 1 on the test images: in its favour. On the even split its plain runs of seed 1 are those of
`benchmarks.experiments.methods`, which are the same. `relative` has half the budget of the default.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.experiments.methods import COMMON, DATA, NAMES, PAPER, RATES
from benchmarks.experiments.runs import ROOT, Plan, command_line, load

PICTURE = ROOT / "docs" / "images" / "sites.png"

__all__ = ["SPLITS", "plans"]

SPLITS: dict[str, dict[str, Any]] = {
    "a0.1": {"dirichlet-alpha": 0.1},
    "two": {"partitioner": "pathological", "classes-per-client": 2},
    "a10": {"dirichlet-alpha": 10.0},
}
SPLIT_NAMES = {"a0.1": "Dirichlet 0.1", "two": "two classes each", "a10": "Dirichlet 10"}
SEEDS = (1, 2, 3)
METHODS: dict[str, dict[str, Any]] = {
    "deltamask": {},
    "relative": {"codec": "relative", "downlink": "relay", "target-bpp": 0.005},
    "paper": PAPER,
}


LEAST_SHOWN = 6.0
"""Points that a panel shows at least: less is noise."""
SHOWN: dict[tuple[str, bool], dict[str, Any]] = {
    ("deltamask", False): {"color": "C0", "marker": "o", "label": "DeltaMask, default"},
    ("relative", False): {"color": "C0", "marker": "^", "label": "DeltaMask, relative"},
    ("fuse8", True): {"color": "C1", "marker": "o", "label": "first version, fuse8 (the paper's)"},
    ("relative", True): {"color": "C1", "marker": "^", "label": "first version, relative"},
    ("fedavg-c0", False): {"color": "black", "marker": "s", "label": "FedAvg, float32"},
    ("fedavg-c1", False): {"color": "grey", "marker": "s", "label": "FedAvg, calibrated loss"},
}
"""Method, whether of the first version (`benchmarks.experiments.methods`), and how it is drawn."""


def _plan(data: str, split: str, name: str, seed: int, config: dict[str, Any]) -> Plan:
    where = {"dataset": DATA[data], "validation-fraction": 0.0, "seed": seed}
    return Plan(f"{data}-{split}-{name}-s{seed}", COMMON | where | SPLITS[split] | config)


def plans() -> Iterator[Plan]:
    """Every run, what matters most first."""
    for seed in SEEDS:
        for split in SPLITS:
            for data in DATA:
                for name in ("deltamask", "relative"):
                    yield _plan(data, split, name, seed, METHODS[name])
        for calibration in (1.0, 0.0):
            for rate in RATES:
                for split in SPLITS:
                    for data in DATA:
                        if (seed, split, calibration) == (1, "a10", 0.0):
                            continue  # kept among those of `methods`
                        config = {"method": "fedavg", "weight-learning-rate": rate, "calibration": calibration}
                        yield _plan(data, split, f"fedavg-c{calibration:g}-{rate:g}", seed, config)


def runs_of(data: str, split: str, method: str) -> list[dict[str, Any]]:
    """What is kept of a method, by seed; for ``fedavg-c1`` and ``fedavg-c0`` those with the best step of seed 1."""
    if not method.startswith("fedavg"):
        return load("sites", f"{data}-{split}-{method}-s*")
    first = {rate: _fedavg(data, split, method, rate, "s1") for rate in RATES}
    found = {rate: last(runs[0]) for rate, runs in first.items() if runs}
    return _fedavg(data, split, method, max(found, key=found.__getitem__), "s*") if found else []


def _fedavg(data: str, split: str, method: str, rate: float, seeds: str) -> list[dict[str, Any]]:
    same = load("methods", f"{data}-a10-fedavg-{rate:g}") if (split, method) == ("a10", "fedavg-c0") else []
    return same + load("sites", f"{data}-{split}-{method}-{rate:g}-{seeds}")


def last(run: dict[str, Any]) -> float:
    """Accuracy after the last round."""
    return float(run["rounds"][-1]["accuracy"]["mean"])


def spread(values: list[float]) -> str:
    """Mean and range of some accuracies, in per cent."""
    text = f"{100 * fmean(values):.1f}"
    return f"{text} ({100 * min(values):.1f} to {100 * max(values):.1f})" if len(values) > 1 else text


def table() -> str:
    """What is kept, as Markdown."""
    lines = [
        "| data, split | method | seeds | head alone, % | after rounds 3, 6, 9, % | after 12 rounds, % | uplink bpp "
        "| downlink bpp |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for data in DATA:
        for split, split_name in SPLIT_NAMES.items():
            for method in (*METHODS, "fedavg-c1", "fedavg-c0"):
                runs = runs_of(data, split, method)
                if not runs:
                    continue
                evaluated = [[e["accuracy"]["mean"] for e in run["rounds"] if e["accuracy"]] for run in runs]
                course = ", ".join(f"{100 * fmean(column):.1f}" for column in list(zip(*evaluated, strict=True))[:-1])
                up, down = (
                    fmean(e[way]["bpp"] for run in runs for e in run["rounds"][skip:])
                    for way, skip in (("uplink", 0), ("downlink", 1))
                )
                lines.append(
                    f"| {NAMES[data]}, {split_name} | {method} | {len(runs)} "
                    f"| {100 * fmean(run['linear_probe']['accuracy'] for run in runs):.1f} | {course} "
                    f"| {spread([last(run) for run in runs])} | {up:.4f} | {down:.3f} |"
                )
    return "\n".join(lines)


def plot() -> Path:
    """Accuracy against the bits of an update, a panel for each data set and split that there are runs of."""
    wanted = [(data, split) for data in DATA for split in reversed(SPLITS) if runs_of(data, split, "deltamask")]
    rows = -(-len(wanted) // 3)
    size = (10, 0.6 + 2.9 * rows)
    figure, axes = plt.subplots(rows, 3, figsize=size, layout="constrained", sharex=True, squeeze=False)
    for panel in axes.flat[len(wanted) :]:
        panel.set_axis_off()
    for panel, (data, split) in zip(axes.flat, wanted, strict=False):
        for (method, first_version), style in SHOWN.items():
            runs = load("methods", f"{data}-{split}-{method}") if first_version else runs_of(data, split, method)
            if runs:
                bits = fmean(entry["uplink"]["bpp"] for run in runs for entry in run["rounds"])
                found = [100 * last(run) for run in runs]
                away = [[fmean(found) - min(found)], [max(found) - fmean(found)]]
                panel.errorbar(bits, fmean(found), away, **style, ms=7, capsize=3, linestyle="none")
        head = fmean(run["linear_probe"]["accuracy"] for run in runs_of(data, split, "deltamask"))
        panel.axhline(100 * head, color="grey", linestyle=":", label="head alone")
        panel.set(title=f"{NAMES[data]}, {SPLIT_NAMES[split]}", xscale="log", xlim=(2e-4, 1e2))
        low, high = panel.get_ylim()
        room = max(0.0, LEAST_SHOWN - (high - low)) / 2
        panel.set_ylim(low - room, high + room)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    for row in axes:
        row[0].set_ylabel("test accuracy, %")
    axes[-1][1].set_xlabel("uplink, bits per parameter")
    named = {name: line for panel in axes.flat for line, name in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(PICTURE, dpi=110)
    return PICTURE


if __name__ == "__main__":
    command_line("sites", plans, table, plot)
