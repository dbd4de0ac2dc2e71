"""Runs of the app itself, many in a row, and what is kept of each.

An experiment is a list of plans. A run is the app in one process (`benchmarks.in_process`, whose digests are those of a
simulation), in a folder of its own; what is kept of it is its results.json without lists by client and without paths.
Runs that are kept already are skipped, so an experiment that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from common.config.cache_path import default_cache_path
from common.config.run import as_toml

__all__ = ["ROOT", "Plan", "command_line", "load"]

ROOT = Path(__file__).resolve().parents[2]
_RESULTS = ROOT / "benchmarks" / "results" / "experiments"


@dataclass(frozen=True)
class Plan:
    """One run."""

    name: str
    config: dict[str, Any]
    """The run config; ``dataset`` and ``weights``, if they are files, name those of the data folder."""
    supernodes: int = 10
    node: Mapping[str, Any] = field(default_factory=dict)
    """The node config of every client, beside its number."""
    sites: Callable[[Path, Path], tuple[str, list[str]]] | None = None
    """Makes, of the data folder and in a folder of its own, a dataset for the server and one for each client."""


def load(experiment: str, pattern: str) -> list[dict[str, Any]]:
    """What is kept of the runs of an experiment whose names match, in their order."""
    files = sorted((_RESULTS / experiment).glob(f"{pattern}.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def _run(plan: Plan, data: Path, folder: Path, cache: Path) -> Path:
    local = {"dataset": f"npz:{data / plan.config['dataset']}"} if plan.sites is None else {}
    if str(plan.config.get("weights", "")).endswith(".safetensors"):
        local["weights"] = str(data / plan.config["weights"])
    with tempfile.TemporaryDirectory(prefix="deltamask-experiment-") as workplace:
        config, nodes = Path(workplace) / "run.toml", Path(workplace) / "nodes.json"
        everywhere = {
            "num-partitions": plan.supernodes,
            "precision": "float32",
            **plan.node,
        }  # on a GPU too, where auto is bfloat16
        clients = [{"partition-id": k} | everywhere for k in range(plan.supernodes)]
        if plan.sites is not None:
            local["dataset"], own = plan.sites(data, Path(workplace) / "sites")
            clients = [client | {"data": name} for client, name in zip(clients, own, strict=True)]
        nodes.write_text(json.dumps(clients), encoding="utf-8")
        config.write_text(as_toml({**plan.config, **local}), encoding="utf-8")
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "benchmarks.in_process", str(config), str(nodes), "--cache", str(cache)]
        done = subprocess.run(command, cwd=workplace, env=environment, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{plan.name} failed:\n{done.stdout}{done.stderr}")
        results = json.loads((Path(workplace) / "runs" / "latest" / "results.json").read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{plan.name}.json"
    path.write_text(json.dumps(_condense(results), indent=1) + "\n", encoding="utf-8")
    return path


def _condense(results: dict[str, Any]) -> dict[str, Any]:
    """What the table needs, without paths of one machine and without lists by client."""
    config = {key: value for key, value in results["config"].items() if key not in ("output-dir", "weights")}
    config["dataset"] = Path(config["dataset"]).name
    probe = results["linear_probe"]
    return {
        "config": config,
        "versions": results["versions"],
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "model": results["model"],
        "linear_probe": {"accuracy": probe["accuracy"], "bytes": _total(probe["uplink"])},
        "kept": {key: value for key, value in results["kept"].items() if key != "classes"},
        "rounds": [
            {
                "round": entry["round"],
                "accuracy": entry["accuracy"],
                **({"balanced_accuracy": entry["classes"]["balanced_accuracy"]} if entry.get("classes") else {}),
                **({"held_out": entry["validation"]["pooled"]} if entry.get("validation") else {}),
                **({"personal": _spread(entry["personal"])} if entry.get("personal") else {}),
                "seconds": round(sum(entry["seconds"][phase] for phase in ("configure", "train")), 1),
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


def _spread(personal: dict[str, Any]) -> dict[str, float]:
    return {key: round(personal[key], 6) for key in ("mean", "worst_decile", "std")}


def _total(traffic: dict[str, Any]) -> int:
    return sum(traffic["payload_bytes"].values())


def _run_all(plans: Iterable[Plan], data: Path, folder: Path, jobs: int, cache: Path) -> None:
    """Run what is not kept yet, ``jobs`` at a time."""
    waiting = [plan for plan in plans if not (folder / f"{plan.name}.json").is_file()]
    with ThreadPoolExecutor(jobs) as pool:
        for done in as_completed([pool.submit(_run, plan, data, folder, cache) for plan in waiting]):
            print(done.exception() or done.result(), flush=True)


def command_line(
    experiment: str,
    plans: Callable[[], Iterable[Plan]],
    table: Callable[[], str],
    plot: Callable[[], Path] | None = None,
) -> None:
    """The commands of an experiment: run, table, and plot where there is a picture."""
    parser = argparse.ArgumentParser(description=f"The experiment {experiment}: runs of the app in one process.")
    commands = parser.add_subparsers(required=True, dest="command")
    running = commands.add_parser("run", help="run what is not kept yet")
    running.add_argument("--data", type=Path, required=True, help="folder with the .npz files and the ViT's weights")
    running.add_argument("--jobs", type=int, default=1, help="runs side by side (default: 1)")
    running.add_argument("--cache", type=Path, default=default_cache_path(), help="where activations are kept")
    running.add_argument("--only", default="*", help="names of runs, with * and ? (default: all)")
    commands.add_parser("table", help="print what is kept as Markdown")
    if plot is not None:
        commands.add_parser("plot", help="draw what is kept")
    args = parser.parse_args()
    if args.command == "run":
        chosen = [plan for plan in plans() if fnmatch(plan.name, args.only)]
        _run_all(chosen, args.data.resolve(), _RESULTS / experiment, args.jobs, args.cache.resolve())
    else:
        print(plot() if plot is not None and args.command == "plot" else table())
