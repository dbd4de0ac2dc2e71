"""DINOv2-small on CIFAR-10, split evenly and unevenly, as conf/dinov2-small-cifar10.toml has it.

python -m benchmarks.experiments.dinov2 run --data ../shared/data     # an hour of one core
python -m benchmarks.experiments.dinov2 table
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from benchmarks.experiments.runs import ROOT, Plan, command_line, load

ALPHAS = (10.0, 0.1)
_CONFIG = ROOT / "conf" / "dinov2-small-cifar10.toml"


def plans() -> Iterator[Plan]:
    """Both splits, one seed."""
    config = tomllib.loads(_CONFIG.read_text(encoding="utf-8"))
    files = {key: Path(config[key].removeprefix("npz:")).name for key in ("dataset", "weights")}
    for alpha in ALPHAS:
        yield Plan(f"a{alpha:g}", config | files | {"dirichlet-alpha": alpha})


def table() -> str:
    """What is kept, as Markdown."""
    lines = [
        "| split | head alone, % | accuracy by round, % | kept model, % (round) | uplink bpp | downlink bpp |",
        "|---|---|---|---|---|---|",
    ]
    for alpha in ALPHAS:
        for run in load("dinov2", f"a{alpha:g}"):
            head, rounds = run["linear_probe"]["accuracy"], run["rounds"]
            course = {entry["round"]: entry["accuracy"]["mean"] for entry in rounds if entry["accuracy"]}
            kept = run["kept"]["round"]
            best = f"{100 * (course | {0: head})[kept]:.1f}" if kept in course or not kept else "not evaluated"
            up = fmean(entry["uplink"]["bpp"] for entry in rounds)
            down = fmean(entry["downlink"]["bpp"] for entry in rounds[1:])
            lines.append(
                f"| Dirichlet {alpha:g} | {100 * head:.1f} | "
                f"{', '.join(f'{100 * value:.1f} ({number})' for number, value in course.items())} "
                f"| {best} ({kept}) | {up:.4f} | {down:.3f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    command_line("dinov2", plans, table)
