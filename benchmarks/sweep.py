"""What training and sending are made of, one factor at a time: hundreds of runs in minutes, on a data centre's GPU.

    python -m benchmarks.sweep run --data ../shared/data
    python -m benchmarks.sweep table

A simulation of the app, not the app (`benchmarks.simulation` says how they differ): what it says of one
choice against another is what it is for. Figures to rely on are those of `benchmarks.experiments.sites`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.experiments.methods import DATA
from benchmarks.results import FOLDER
from benchmarks.simulation import Images, Network, Way, simulate
from common.config.cache_path import default_cache_path

RESULTS = FOLDER / "sweep.json"
TOGETHER = 24
"""Runs in a batch: 240 clients, 26 GB."""
WITHOUT_NOISE: dict[str, dict[str, Any]] = {
    "probabilities averaged as they are": {},
    "half the step": {"step": 60.0},
    "twice the step": {"step": 240.0},
    "step falls to a tenth": {"decay": 0.1},
    "plain cross-entropy": {"calibration": 0.0},
    "half the calibration": {"calibration": 0.5},
    "vacant classes, 0.3": {"vacant": 0.3},
    "vacant classes, 1": {"vacant": 1.0},
    "not-true classes, 0.3": {"not_true": 0.3},
    "not-true classes, 1": {"not_true": 1.0},
    "vacant classes, 1, plain cross-entropy": {"vacant": 1.0, "calibration": 0.0},
    "penalty 3": {"penalty": 3.0},
    "clients equal": {"equal": True},
    "no momentum, ten times the step": {"local_momentum": 0.0, "step": 1200.0},
    "server momentum 0.8, half the step": {"server_momentum": 0.8, "step": 60.0},
}
SENT: dict[str, dict[str, Any]] = {
    "all flips": {},
    "all flips, gain 2": {"gain": 2.0},
    "all flips, gain 4": {"gain": 4.0},
    "changes above 0.02": {"least_change": 0.02},
    "a tenth left out": {"left_out": 0.1},
    "a fifth left out": {"left_out": 0.2},
    "a fifth left out, gain 2": {"left_out": 0.2, "gain": 2.0},
    "a sample, gain 1": {"codec": "relative"},
    "a sample, gain 0.5": {"codec": "relative", "gain": 0.5},
    "a sample, gain 0.25": {"codec": "relative", "gain": 0.25},
}
CELLS = (
    *({"data": "cifar10", "seed": seed} for seed in (1, 2, 3)),
    *({"data": "fashion", "seed": seed} for seed in (1, 2, 3)),
    {"data": "cifar10", "split": "a10"},
)


def ways() -> list[tuple[str, Way]]:
    """Every run, and what it is of."""
    factors = {name: {"codec": "float", "decay": 1.0} | changed for name, changed in WITHOUT_NOISE.items()} | SENT
    return [(name, Way(**cell, **changed)) for cell in CELLS for name, changed in factors.items()]


def table() -> str:
    """What is kept, as Markdown: means over seeds."""
    runs = json.loads(RESULTS.read_text(encoding="utf-8"))["runs"]
    lines = [
        "| factor | CIFAR-10, Dirichlet 0.1 | Fashion-MNIST, Dirichlet 0.1 | CIFAR-10, Dirichlet 10 |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys(run["factor"] for run in runs):
        cells = []
        for data, split in (("cifar10", "a0.1"), ("fashion", "a0.1"), ("cifar10", "a10")):
            found = [r for r in runs if (r["factor"], r["way"]["data"], r["way"]["split"]) == (name, data, split)]
            course = [fmean(values) for values in zip(*(run["accuracy"] for run in found), strict=True)]
            text = ", ".join(f"{100 * value:.1f}" for value in course)
            cells.append(f"{text} at {fmean(fmean(r['bpp']) for r in found):.4f} ({len(found)})" if found else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Hundreds of simulated runs on one GPU.")
    commands = parser.add_subparsers(required=True, dest="command")
    running = commands.add_parser("run", help="run all")
    running.add_argument("--data", type=Path, required=True, help="folder with the .npz files and the ViT's weights")
    running.add_argument("--cache", type=Path, default=default_cache_path(), help="where images and parts are kept")
    running.add_argument("--together", type=int, default=TOGETHER, help="runs in a batch")
    running.add_argument("--most", type=int, default=10**6, help="runs in all (default: no limit)")
    commands.add_parser("table", help="print what is kept as Markdown")
    args = parser.parse_args()
    if args.command == "table":
        print(table())
        return
    torch.set_float32_matmul_precision("high")
    network = Network(args.data)
    sets = {name: Images(network, args.data, name, args.cache) for name in DATA}
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    kept: dict[str, Any] = {"machine": machine, "head alone": {n: s.head_alone for n, s in sets.items()}, "runs": []}
    left = ways()[: args.most]
    while left:
        batch, left, begun = left[: args.together], left[args.together :], time.perf_counter()
        found = simulate(network, sets, [way for _, way in batch], args.cache)
        for (name, way), figures in zip(batch, found, strict=True):
            kept["runs"].append({"factor": name, "way": way._asdict(), **figures})
        RESULTS.write_text(json.dumps(kept) + "\n", encoding="utf-8")
        print(f"{len(batch)} runs in {time.perf_counter() - begun:.0f} s, {len(left)} left", flush=True)


if __name__ == "__main__":
    main()
