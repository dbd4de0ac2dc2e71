"""Committed results: take one from a run's folder, and draw those there are.

    python -m benchmarks.results add runs/latest vit-tiny-cifar10     # -> benchmarks/results/vit-tiny-cifar10.json
    python -m benchmarks.results plot                                 # -> docs/images/runs.png

A result is the run's own results.json; only its output folder, a path of one machine, is left out. Figures in the
README and in docs/ come from these files.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path(__file__).parent / "results"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "runs.png"
CURVES = {
    "demo-digits": "embedded ViT, digits, fuse8",
    "demo-digits-relative": "embedded ViT, digits, relative",
    "vit-tiny-cifar10": "ViT-Tiny, CIFAR-10, Dirichlet 10, fuse8",
    "vit-tiny-cifar10-skewed": "ViT-Tiny, CIFAR-10, Dirichlet 0.1, fuse8",
}


def add(run: Path, name: str) -> Path:
    """Copy a run's results, without what only its machine knows."""
    results: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    if results["status"] != "completed":
        raise SystemExit(f"{run} is {results['status']}: only completed runs are kept")
    results["config"].pop("output-dir")
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return path


def plot() -> Path:
    """Accuracy by round against the linear probe, and uplink bits per parameter by round."""
    found = {name: FOLDER / f"{name}.json" for name in CURVES if (FOLDER / f"{name}.json").is_file()}
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for index, (name, path) in enumerate(found.items()):
        results = json.loads(path.read_text(encoding="utf-8"))
        evaluated = [entry for entry in results["rounds"] if entry["accuracy"]]
        rounds = [0, *(entry["round"] for entry in evaluated)]
        accuracy = [results["linear_probe"]["accuracy"], *(entry["accuracy"]["mean"] for entry in evaluated)]
        left.plot(
            rounds, [100 * value for value in accuracy], marker="o", markersize=3, color=f"C{index}", label=CURVES[name]
        )
        right.plot(
            [entry["round"] for entry in results["rounds"]],
            [entry["uplink"]["bpp"] for entry in results["rounds"]],
            marker="o",
            markersize=3,
            color=f"C{index}",
        )
    left.set(title="Accuracy of the mean mask (round 0: linear probe)", xlabel="round", ylabel="test accuracy, %")
    left.legend(fontsize=8, loc="lower right")
    right.set(title="Uplink, bits per parameter and client (float32: 32)", xlabel="round", yscale="log")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=110)
    return PICTURE


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Keep and draw results of runs.")
    commands = parser.add_subparsers(required=True, dest="command")
    adding = commands.add_parser("add", help="keep a run's results")
    adding.add_argument("run", type=Path)
    adding.add_argument("name")
    commands.add_parser("plot", help="draw the kept results")
    args = parser.parse_args()
    print(add(args.run, args.name) if args.command == "add" else plot())


if __name__ == "__main__":
    main()
