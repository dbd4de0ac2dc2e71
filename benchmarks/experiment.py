"""What each codec costs and what it does to accuracy: ViT-Tiny on CIFAR-10, one simulation for each codec and seed.

    python -m benchmarks.experiment run --data ../shared/data      # hours on two cores; runs already kept are skipped
    python -m benchmarks.experiment table                          # a Markdown table of what is kept
    python -m benchmarks.experiment plot                           # -> docs/images/codecs.png

Ten clients, twelve rounds of one local epoch (13 steps of 16 images) over 2,000 images in all, 2,000 test images, the
last five of twelve blocks masked. Every run is the app itself on a Flower simulation (`deploy/simulate.py`). What
is kept of it is its results.json without lists by client.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(__file__).parent / "results" / "experiment"
PICTURE = ROOT / "docs" / "images" / "codecs.png"

COMMON = {
    "backbone": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "image-size": 96,
    "masked-blocks": 5,
    "train-limit": 2000,
    "partitioner": "dirichlet",
    "num-server-rounds": 12,
    "local-epochs": 1,
    "batch-size": 16,
    "eval-every": 6,
}
CODECS: dict[str, dict[str, Any]] = {
    "exact": {"codec": "exact"},
    "relative": {"codec": "relative", "target-bpp": 0.007},
    "fuse8": {"codec": "fuse8"},
    "fuse8-all": {"codec": "fuse8", "fuse-candidates": False},
    "fuse16": {"codec": "fuse16"},
    "bitmap": {"codec": "bitmap"},
    "relay": {"codec": "relative", "target-bpp": 0.007, "downlink": "relay"},
}
BUDGETS = (0.0005, 0.001, 0.002, 0.004, 0.01, 0.02)


@dataclass(frozen=True)
class Plan:
    """One run."""

    name: str
    config: dict[str, Any]


def plans() -> Iterator[Plan]:
    """Every run, what matters most first."""

    def plan(label: str, codec: dict[str, Any], alpha: float, seed: int) -> Plan:
        return Plan(f"{label}-a{alpha:g}-s{seed}", COMMON | codec | {"dirichlet-alpha": alpha, "seed": seed})

    compared = [name for name in CODECS if name != "relay"]
    yield from (plan(name, CODECS[name], 10.0, 1) for name in compared)
    yield from (plan(name, CODECS[name], 10.0, seed) for seed in (2, 3) for name in ("exact", "relative"))
    for budget in BUDGETS:
        yield plan(f"relative-{budget:g}", {"codec": "relative", "target-bpp": budget}, 10.0, 1)
    yield plan("relay", CODECS["relay"], 10.0, 1)
    yield from (plan(name, CODECS[name], 0.1, 1) for name in compared)
    yield from (plan(name, CODECS[name], 10.0, seed) for seed in (2, 3) for name in compared[2:])


def run_one(plan: Plan, data: Path) -> Path:
    """Run the app in a folder of its own, and keep the result."""
    local = {
        "dataset": f"npz:{data / 'cifar10_10k.npz'}",
        "weights": str(data / "vit_tiny_patch16_224.safetensors"),
    }
    with tempfile.TemporaryDirectory(prefix="deltamask-experiment-") as folder:
        config = Path(folder) / "run.toml"
        # JSON's strings, numbers and booleans are TOML's too.
        lines = [f"{key} = {json.dumps(value)}" for key, value in {**plan.config, **local}.items()]
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, str(ROOT / "deploy" / "simulate.py"), "--supernodes", "10", "--run-config", config]
        done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{plan.name} failed:\n{done.stdout}{done.stderr}")
        results = json.loads((Path(folder) / "runs" / "latest" / "results.json").read_text(encoding="utf-8"))
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{plan.name}.json"
    path.write_text(json.dumps(condense(results), indent=1) + "\n", encoding="utf-8")
    return path


def condense(results: dict[str, Any]) -> dict[str, Any]:
    """What the table needs, without paths of one machine and without lists by client."""
    config = {key: value for key, value in results["config"].items() if key not in ("output-dir", "weights")}
    config["dataset"] = Path(config["dataset"]).name
    probe = results["linear_probe"]
    return {
        "config": config,
        "versions": results["versions"],
        "model": results["model"],
        "linear_probe": {"accuracy": probe["accuracy"], "bytes": _total(probe["uplink"])},
        "rounds": [
            {
                "round": entry["round"],
                "accuracy": entry["accuracy"],
                **{
                    way: {"bpp": round(entry[way]["bpp"], 6), "bytes": _total(entry[way])}
                    for way in ("uplink", "downlink")
                },
                "clients": entry["clients"]["ok"],
                "digest": entry["digest"],
            }
            for entry in results["rounds"]
        ],
    }


def _total(traffic: dict[str, Any]) -> int:
    return sum(traffic["payload_bytes"].values())


def run_all(data: Path, jobs: int) -> None:
    """Run what is not kept yet, ``jobs`` at a time."""
    waiting = [plan for plan in plans() if not (FOLDER / f"{plan.name}.json").is_file()]
    with ThreadPoolExecutor(jobs) as pool:
        for done in as_completed([pool.submit(run_one, plan, data) for plan in waiting]):
            print(done.exception() or done.result(), flush=True)


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
    files = sorted(FOLDER.glob(f"{label}-a{alpha:g}-s*.json"))
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in files]
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


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Accuracy and bytes of every codec on ViT-Tiny and CIFAR-10.")
    commands = parser.add_subparsers(required=True, dest="command")
    running = commands.add_parser("run", help="run what is not kept yet")
    running.add_argument("--data", type=Path, required=True, help="folder with cifar10_10k.npz and the ViT's weights")
    running.add_argument("--jobs", type=int, default=1, help="simulations side by side (default: 1)")
    commands.add_parser("table", help="print what is kept as Markdown")
    commands.add_parser("plot", help="draw what is kept")
    args = parser.parse_args()
    if args.command == "run":
        run_all(args.data.resolve(), args.jobs)
    else:
        print(table() if args.command == "table" else plot())


if __name__ == "__main__":
    main()
