"""A long run with everything that goes wrong on real links, beside the same run without it.

    python -m benchmarks.soak        # an hour of one core; -> benchmarks/results/soak.json   (make soak)

200 rounds of 20 clients with the demo's network and digits, a few images each, in one process
(`benchmarks.in_process`). By a seeded plan one reply in ten is lost and one in twenty damaged, every ten rounds a
client comes back as another node, every fifty one has lost its disk, and the server's process is killed twice with
SIGKILL and resumes. Of every round the memory and the open files of the process are noted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from benchmarks.in_process import MemoryGrid, Node, run_in_process
from common.messages import TRAIN
from deltamask_server.results_file import read_results

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "soak.json"
ROUNDS, CLIENTS, SEED = 200, 20, 1
LOST, DAMAGED = 0.10, 0.05
RESTART_EVERY, WIPE_EVERY = 10, 50
KILLS = (67, 134)
"""Rounds after which the server is killed."""
CONFIG: dict[str, Any] = {
    "train_limit": 600,
    "local_epochs": 1,
    "masked_blocks": 1,
    "min_clients": 10,
    "num_server_rounds": ROUNDS,
    "eval_every": 10,
    "round_timeout_seconds": 0.2,
    "retry_wait_seconds": 0.0,
}


def _fate(server_round: int, client: int) -> np.random.Generator:
    return np.random.default_rng((SEED, server_round, client))


def _damaged(reply: Message, rng: np.random.Generator) -> Message:
    """One bit of one part is another."""
    records: dict[str, Any] = {}
    for name, record in reply.content.items():
        if isinstance(record, ConfigRecord):
            values = dict(record)
            parts = [key for key, value in values.items() if isinstance(value, bytes) and value]
            if parts:
                key = parts[int(rng.integers(len(parts)))]
                data = bytearray(values[key])
                data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
                values[key] = bytes(data)
            record = ConfigRecord(values)
        elif isinstance(record, ArrayRecord):
            raise NotImplementedError("replies bring no arrays")
        records[name] = record
    reply.content = RecordDict(records)
    return reply


def unlucky(client: int, node: Node) -> Node:
    """A node some of whose replies are lost or damaged."""

    def answer(message: Message) -> list[Message]:
        replies = node(message)
        if message.metadata.message_type != TRAIN:
            return replies
        rng = _fate(int(message.content["round"]["round"]), client)
        chance = rng.random()
        if chance < LOST:
            return []
        return [_damaged(reply, rng) for reply in replies] if chance < LOST + DAMAGED else replies

    return answer


class SoakGrid(MemoryGrid):
    """Notes the process's memory and open files after each round, and has nodes come and go by plan."""

    faults, log, cache = False, Path(), Path()
    restarts = 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Call the nodes, and then the plan."""
        pushed = list(messages)
        ids = super().push_messages(pushed)
        self.sent.clear()
        if pushed and pushed[0].metadata.message_type == TRAIN:
            server_round = int(pushed[0].content["round"]["round"])
            self._note(server_round)
            if self.faults and server_round % RESTART_EVERY == 0:
                old = sorted(self.nodes)[(server_round // RESTART_EVERY) % CLIENTS]
                self.nodes[10_000 + server_round] = self.nodes.pop(old)
            if self.faults and server_round % WIPE_EVERY == 0:
                shutil.rmtree(self.cache)
        return ids

    def _note(self, server_round: int) -> None:
        status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        rss = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
        files = len(os.listdir("/proc/self/fd"))
        with self.log.open("a", encoding="ascii") as file:
            file.write(
                json.dumps({"round": server_round, "pid": os.getpid(), "rss_mb": rss / 1024, "files": files}) + "\n"
            )


def play(folder: Path, faults: bool, resume: bool) -> None:
    """The run, or the rest of it, in this process."""
    SoakGrid.faults, SoakGrid.log, SoakGrid.cache = faults, folder / "process.jsonl", folder / "cache"
    nodes = [{"partition-id": k, "num-partitions": CLIENTS} for k in range(CLIENTS)]
    config = CONFIG | ({"resume": "latest"} if resume else {})
    wrap = unlucky if faults else lambda number, node: node
    run_in_process(folder, config, nodes, wrap=wrap, make_grid=SoakGrid)


def watch(folder: Path, faults: bool) -> dict[str, Any]:
    """The run in a process of its own, killed where the plan says so, and what came of it."""
    kills, resume, begun = list(KILLS) if faults else [], False, time.monotonic()
    while True:
        command = [sys.executable, "-m", "benchmarks.soak", "--play", str(folder)]
        command += ["--faults"] * faults + ["--resume"] * resume
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        lines = folder / "runs" / "latest" / "rounds.jsonl"
        while process.poll() is None:
            time.sleep(0.05)
            if kills and lines.is_file() and lines.read_bytes().count(b"\n") >= kills[0]:
                process.kill()
                process.wait()
                kills.pop(0)
        if process.returncode == -9:
            resume = True
            continue
        if process.returncode:
            raise RuntimeError(f"it ended with {process.returncode}:\n{(folder / 'log').read_text()[-3000:]}")
        return summarise(folder, time.monotonic() - begun)


def summarise(folder: Path, seconds: float) -> dict[str, Any]:
    """What a run has left."""
    results = read_results(folder / "runs" / "latest")
    rounds = results["rounds"]
    reasons: dict[str, int] = {}
    for entry in rounds:
        for reason, count in entry["clients"]["failed"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    noted = [json.loads(line) for line in (folder / "process.jsonl").read_text(encoding="ascii").splitlines()]
    processes = []
    for pid in dict.fromkeys(line["pid"] for line in noted):
        own = [line for line in noted if line["pid"] == pid]
        middle = own[len(own) // 2 :]
        processes.append(
            {
                "rounds": [own[0]["round"], own[-1]["round"]],
                "rss_mb": {"after 10 rounds": own[min(9, len(own) - 1)]["rss_mb"], "halfway": middle[0]["rss_mb"],
                           "at the end": own[-1]["rss_mb"], "most": max(line["rss_mb"] for line in own)},
                "open_files": {"after 10 rounds": own[min(9, len(own) - 1)]["files"], "at the end": own[-1]["files"]},
            }
        )  # fmt: skip
    evaluated = [entry["accuracy"]["mean"] for entry in rounds if entry["accuracy"]]
    return {
        "status": results["status"],
        "rounds": len(rounds),
        "head": results["linear_probe"]["accuracy"],
        "kept": results["kept"]["accuracy"],
        "last five evaluations": evaluated[-5:],
        "asked": sum(entry["clients"]["asked"] for entry in rounds),
        "counted": sum(entry["clients"]["ok"] for entry in rounds),
        "failed": reasons,
        "resumed": len(results.get("resumed", [])),
        "processes": processes,
        "seconds": round(seconds),
    }


def main() -> None:
    """Both runs, side by side or one of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--play", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--faults", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--resume", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.play:
        play(args.play, args.faults, args.resume)
        return
    found = {}
    with tempfile.TemporaryDirectory(prefix="deltamask-soak-") as place:
        for name, faults in (("clean", False), ("faults", True)):
            folder = Path(place) / name
            folder.mkdir()
            found[name] = watch(folder, faults)
            print(name, json.dumps(found[name], indent=1), flush=True)
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
