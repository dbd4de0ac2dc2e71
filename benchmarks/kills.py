"""Kill a run again and again, take it up, and compare its digests with those of a run that nobody killed.

    python -m benchmarks.kills --times 50        # twenty minutes of two cores; -> benchmarks/results/kills.json

A small run in one process (`benchmarks.in_process`) is killed with SIGKILL after a random time (seeded), resumed, and
killed again, until it completes; and so on with other runs until there were enough kills. By method and downlink.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from common.config.run import RunConfig
from deltamask_server.results_file import read_results

RESULT = Path(__file__).parent / "results" / "kills.json"
ROOT = Path(__file__).resolve().parents[1]
CLIENTS = 3
COMMON: dict[str, Any] = {
    "train_limit": 60,
    "test_limit": 100,
    "local_epochs": 1,
    "masked_blocks": 1,
    "num_server_rounds": 6,
    "min_clients": CLIENTS,
}
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "relative, relayed": {"codec": "relative", "downlink": "relay"},
    "fedavg": {"method": "fedavg"},
    "lotteryfl": {"method": "lotteryfl", "lottery_accuracy": 0.1, "density": 0.4},
    "private": {"method": "private", "head": "mean", "validation_fraction": 0.0, "screen_heads": False},
    "hidenseek": {
        "method": "hidenseek",
        "backbone": "lenet",
        "masked_blocks": 0,
        "head": "random",
        "density": 0.2,
        "prune_passes": 3,
    },
}
SEED, START_SECONDS = 1, 8.0
"""Seed of the times, and about how long a process takes before it does anything."""


def _command(folder: Path, config: dict[str, Any]) -> list[str]:
    values = RunConfig(**config).as_dict()
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    (folder / "run.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    nodes = [{"partition-id": k, "num-partitions": CLIENTS, "noise-seed": 1} for k in range(CLIENTS)]
    (folder / "nodes.json").write_text(json.dumps(nodes), encoding="utf-8")
    return [sys.executable, "-m", "benchmarks.in_process", "run.toml", "nodes.json", "--cache", str(folder / "cache")]


def _digests(folder: Path) -> list[str]:
    return [entry["digest"] for entry in read_results(folder / "runs" / "latest")["rounds"]]


def _run(folder: Path, config: dict[str, Any], kill_after: float | None) -> bool:
    """Whether it ended by itself."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        _command(folder, config), cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        return process.wait(kill_after) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


def measure(kind: str, times: int) -> dict[str, Any]:
    """Kills of one kind of run, and how many runs in between ended with other digests than one that was left alone."""
    config, rng = COMMON | KINDS[kind], np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory(prefix="deltamask-kills-") as place:
        alone = Path(place) / "alone"
        alone.mkdir()
        begun = time.monotonic()
        assert _run(alone, config, None), "the run that nobody kills must complete"
        seconds, expected = time.monotonic() - begun, _digests(alone)
        kills, runs, equal, rounds = 0, 0, 0, []
        while kills < times:
            folder = Path(place) / f"run-{runs}"
            folder.mkdir()
            ended, resume = False, ""
            while not ended:
                limit = (
                    START_SECONDS + float(rng.random()) * max(1.0, seconds - START_SECONDS) if kills < times else None
                )
                ended = _run(folder, config | ({"resume": resume} if resume else {}), limit)
                kills += not ended
                if not ended and any((folder / "runs").glob("*/checkpoints/round-*")):
                    resume = "latest"
                    rounds.append(len(_digests(folder)))
            runs += 1
            equal += _digests(folder) == expected
    return {"kind": kind, "kills": kills, "runs": runs, "equal": equal, "killed after rounds": rounds}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=50, help="kills in all (default: 50)")
    args = parser.parse_args()
    found = [measure(kind, -(-args.times // len(KINDS))) for kind in KINDS]
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for one in found:
        print(f"{one['kind']:20} {one['kills']} kills, {one['equal']} of {one['runs']} runs with equal digests")


if __name__ == "__main__":
    main()
