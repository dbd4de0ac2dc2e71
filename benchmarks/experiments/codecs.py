"""What each codec costs, both ways, and what it does to accuracy, by budget: ViT-Tiny on CIFAR-10, before and after.

    python -m benchmarks.experiments.codecs run --data ../shared/data      # two hours of one core
    python -m benchmarks.experiments.codecs table                          # a Markdown table of what is kept
    python -m benchmarks.experiments.codecs plot                           # -> docs/images/codecs.png

Ten clients, twelve rounds of one local epoch (13 steps of 16 images) over 2,000 images in all, 2,000 test images, the
last five of twelve blocks masked; one seed. Everything that is not named is the app's default: its training, and a
budget of 0.01 bits a parameter for every codec. On the even split the head is a linear probe, as it was for the first
version, whose runs are kept in ``codecs/first``; on the uneven one it is `ridge`, since averaged probes are poor there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.experiments.runs import ROOT, Plan, command_line, load

PICTURE = ROOT / "docs" / "images" / "codecs.png"

COMMON = {
    "dataset": "cifar10_10k.npz",
    "weights": "vit_tiny_patch16_224.safetensors",
    "backbone": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "image-size": 96,
    "masked-blocks": 5,
    "train-limit": 2000,
    "validation-fraction": 0.0,
    "partitioner": "dirichlet",
    "num-server-rounds": 12,
    "local-epochs": 1,
    "batch-size": 16,
    "eval-every": 6,
}
HEADS = {10.0: "linear-probe", 0.1: "ridge"}
CODECS: dict[str, dict[str, Any]] = {
    "exact": {},
    "relative": {"codec": "relative"},
    "relay": {"codec": "relative", "downlink": "relay"},
    "fuse8": {"codec": "fuse8"},
    "fuse8-all": {"codec": "fuse8", "fuse-candidates": False},
    "fuse16": {"codec": "fuse16"},
    "bitmap": {"codec": "bitmap"},
}
"""The first version had them all without a budget (kappa from 0.8 to 0.4), but for `relative`, whose finished updates
were shrunk to 0.007 bpp, and to those of its rows that are named by a number."""
CURVES = ("exact", "relative")
BUDGETS = (0.001, 0.0003, 0.003)
FIRST_BUDGETS = (0.0005, 0.001, 0.002, 0.004, 0.01, 0.02)


def plans() -> Iterator[Plan]:
    """Every run, what matters most first."""

    def plan(label: str, config: dict[str, Any], alpha: float) -> Plan:
        return Plan(f"{label}-a{alpha:g}-s1", COMMON | config | {"dirichlet-alpha": alpha, "head": HEADS[alpha]})

    curves = {f"{name}-{bpp:g}": CODECS[name] | {"target-bpp": bpp} for bpp in BUDGETS for name in CURVES}
    yield from (plan(name, CODECS[name], 10.0) for name in CURVES)
    yield from (plan(label, config, 10.0) for label, config in curves.items())
    yield from (plan(name, config, 10.0) for name, config in CODECS.items() if name not in CURVES)
    yield from (
        plan(label, config, 0.1) for label, config in ({name: CODECS[name] for name in CURVES} | curves).items()
    )


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
        """Mean of the mean-mask accuracies after the last round, in per cent."""
        return 100 * sum(self.accuracies) / self.runs

    @property
    def text(self) -> str:
        """The accuracy, and the range of the seeds if there are several."""
        spread = f" ({100 * min(self.accuracies):.1f} to {100 * max(self.accuracies):.1f})" if self.runs > 1 else ""
        return f"{self.accuracy:.1f}{spread}"


def row(label: str, alpha: float, first: bool = False) -> Row | None:
    """Read what is kept of a codec, by the first version or today's; None if nothing is."""
    kept = load("codecs/first" if first else "codecs", f"{label}-a{alpha:g}-s*")
    if not kept:
        return None

    def mean(values: Iterable[float]) -> float:
        found = list(values)
        return sum(found) / len(found)

    return Row(
        label,
        len(kept),
        tuple(run["rounds"][-1]["accuracy"]["mean"] for run in kept),
        100 * mean(run["linear_probe"]["accuracy"] for run in kept),
        mean(entry["uplink"]["bpp"] for run in kept for entry in run["rounds"]),
        mean(entry["downlink"]["bpp"] for run in kept for entry in run["rounds"][1:]),
        mean(
            1e-6
            * (run["linear_probe"]["bytes"] + sum(e["uplink"]["bytes"] + e["downlink"]["bytes"] for e in run["rounds"]))
            for run in kept
        ),
    )


def rows(alpha: float, first: bool = False) -> dict[str, Row]:
    """What is kept, by label, in the table's order."""
    budgets = [f"relative-{bpp:g}" for bpp in FIRST_BUDGETS]
    labels = [*CODECS, *(budgets if first else [f"{name}-{bpp:g}" for name in CURVES for bpp in sorted(BUDGETS)])]
    return {label: found for label in labels if (found := row(label, alpha, first))}


def table() -> str:
    """What is kept, as Markdown."""
    lines = [
        "| split | version | codec | runs | head, % | accuracy, % | uplink bpp | downlink bpp | MB in all |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for alpha in HEADS:
        for first in (True, False) if alpha == 10.0 else (False,):
            lines += [
                f"| Dirichlet {alpha:g} | {'first' if first else 'today'} | `{label}` | {found.runs} "
                f"| {found.probe:.1f} | {found.text} | {found.uplink:.4f} | {found.downlink:.3f} "
                f"| {found.megabytes:.1f} |"
                for label, found in rows(alpha, first).items()
            ]
    return "\n".join(lines)


def plot() -> Path:
    """Accuracy against uplink bits by split, old and new, and bits by direction."""
    splits = [alpha for alpha in HEADS if rows(alpha)]
    figure, axes = plt.subplots(1, len(splits) + 1, figsize=(3.7 * len(splits) + 3.7, 4.2), layout="constrained")
    for panel, alpha in zip(axes, splits, strict=False):
        _draw_curves(panel, alpha)
    axes[0].set_ylabel("test accuracy, %")
    before, after = rows(10.0, True), rows(10.0)
    names = [name for name in reversed(CODECS) if name in before or name in after]
    for shift, found, shade in ((0.2, before, 0.35), (-0.2, after, 1.0)):
        places = [place + shift for place, name in enumerate(names) if name in found]
        up, down = ([getattr(found[name], way) for name in names if name in found] for way in ("uplink", "downlink"))
        label = "first version" if found is before else "today"
        axes[-1].barh(places, up, 0.4, color="C0", alpha=shade, label=f"up, {label}")
        axes[-1].barh(places, down, 0.4, left=up, color="C1", alpha=shade, label=f"down, {label}")
    axes[-1].set_yticks(range(len(names)), ["relative, relay" if name == "relay" else name for name in names])
    axes[-1].set(title="Bits a parameter, both ways", xlabel="per client and round, from the second round on")
    for panel in axes:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(fontsize=7)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=100)
    return PICTURE


def _draw_curves(panel: Any, alpha: float) -> None:
    for first, name, color in ((True, "relative", "C1"), (False, "relative", "C0"), (False, "exact", "C2")):
        found = rows(alpha, first) if alpha == 10.0 or not first else {}
        points = sorted((row.uplink, row.accuracy) for label, row in found.items() if label.split("-0.")[0] == name)
        if points:
            label = f"{name}, by budget" + (", first version" if first else "")
            panel.plot(*zip(*points, strict=True), ".-", color=color, label=label)
    for first, marker in ((True, "x"), (False, "o")):
        found = rows(alpha, first) if alpha == 10.0 else {}
        for number, name in enumerate(CODECS):
            if name in found and name not in ("relative", "relay"):
                label = name + (", first version" if first else "")
                panel.plot(found[name].uplink, found[name].accuracy, marker, color=f"C{number + 2}", label=label)
    head = next(iter(rows(alpha).values())).probe
    panel.axhline(head, color="grey", linestyle=":", label=f"{HEADS[alpha]} alone")
    panel.set(title=f"Dirichlet {alpha:g}", xscale="log", xlabel="uplink, bits a parameter")


if __name__ == "__main__":
    command_line("codecs", plans, table, plot)
