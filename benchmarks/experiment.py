"""What each codec costs and what it does to accuracy: ViT-Tiny on CIFAR-10, one simulation for each codec and seed.

    python -m benchmarks.experiment run --data ../shared/data      # hours on two cores; runs already kept are skipped
    python -m benchmarks.experiment table                          # a Markdown table of what is kept
    python -m benchmarks.experiment plot                           # -> docs/images/codecs.png

Ten clients, twelve rounds of one local epoch (13 steps of 16 images) over 2,000 images in all, 2,000 test images, the
last five of twelve blocks masked. Every run is the app itself on Flower's simulation engine (`deploy/simulate.py`).
What is kept of it is its results.json without lists by client.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(__file__).parent / "results" / "experiment"

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

    compared = {name: codec for name, codec in CODECS.items() if name != "relay"}
    yield from (plan(name, codec, 10.0, 1) for name, codec in compared.items())
    for budget in BUDGETS:
        yield plan(f"relative-{budget:g}", {"codec": "relative", "target-bpp": budget}, 10.0, 1)
    yield from (plan(name, codec, 0.1, 1) for name, codec in compared.items())
    for seed in (2, 3):
        yield from (plan(name, codec, 10.0, seed) for name, codec in compared.items())
    yield plan("relay", CODECS["relay"], 10.0, 1)


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
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
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
                "theta_digest": entry["theta_digest"],
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
        for path in pool.map(lambda plan: run_one(plan, data), waiting):
            print(path, flush=True)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Accuracy and bytes of every codec on ViT-Tiny and CIFAR-10.")
    commands = parser.add_subparsers(required=True, dest="command")
    running = commands.add_parser("run", help="run what is not kept yet")
    running.add_argument("--data", type=Path, required=True, help="folder with cifar10_10k.npz and the ViT's weights")
    running.add_argument("--jobs", type=int, default=1, help="simulations side by side (default: 1)")
    args = parser.parse_args()
    run_all(args.data.resolve(), args.jobs)


if __name__ == "__main__":
    main()
