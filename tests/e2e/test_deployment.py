"""Simulation, deployment over gRPC and the app in one process give the same bytes; a run survives losing a client."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from flwr.common.config import parse_config_args

from deploy.processes import kill_tree
from deploy.simulate import HEAD_KEPT
from tests.e2e.flower import Flower, simulate
from tests.e2e.in_process import run_in_process

SMALL = "train-limit=240 test-limit=100 local-epochs=1"
EQUAL = f"{SMALL} num-server-rounds=3 min-clients=3 seed=7 validation-fraction=0.2"
KILLED = f"{SMALL} num-server-rounds=3 min-clients=2 round-timeout-seconds=120"


def digests(results: dict) -> list[str]:
    return [entry["digest"] for entry in results["rounds"]]


def test_deployment_over_grpc_equals_simulation(tmp_path: Path) -> None:
    status, log = simulate(tmp_path / "simulation", EQUAL, supernodes=3)
    assert status in (0, HEAD_KEPT), log
    simulated = json.loads((tmp_path / "simulation" / "runs" / "latest" / "results.json").read_text())
    assert simulated["status"] == "completed"
    with Flower(tmp_path / "deployment") as flower:
        for partition in range(3):
            flower.supernode(partition, of=3)
        deployed, log = flower.run(EQUAL)
        assert deployed["status"] == "completed", log + flower.logs()

    # What benchmarks/experiments rest on: without processes it is the same run.
    nodes = [{"partition-id": partition, "num-partitions": 3} for partition in range(3)]
    in_process = run_in_process(tmp_path / "in-process", parse_config_args([EQUAL]), nodes)
    assert digests(deployed) == digests(simulated) == digests(in_process)
    assert deployed["kept"] == simulated["kept"] == in_process["kept"]
    assert len(set(digests(simulated))) == 3
    for ours, theirs in zip(deployed["rounds"], simulated["rounds"], strict=True):
        assert ours["accuracy"] == theirs["accuracy"]
        assert ours["uplink"] == theirs["uplink"]
        assert ours["downlink"] == theirs["downlink"]
        assert ours["validation"]["clients"] == theirs["validation"]["clients"]
        assert set(ours["validation"]["clients"]) == {"0", "1", "2"}
        assert ours["clients"] == {"asked": 3, "ok": 3, "failed": {}, "failed_clients": {}}
    # What a user reads: one line a round, and the summary.
    assert "Outcome     completed" in log
    assert sum(line.split()[:1] == [str(n)] for line in log.splitlines() for n in (1, 2, 3)) == 3


@pytest.mark.slow
def test_a_run_completes_when_a_supernode_is_killed(tmp_path: Path) -> None:
    with Flower(tmp_path / "deployment") as flower:
        nodes = [flower.supernode(partition, of=3) for partition in range(3)]

        def kill_one_in_mid_run() -> None:
            rounds = flower.folder / "runs" / "latest" / "rounds.jsonl"
            end = time.monotonic() + 200
            while time.monotonic() < end and not rounds.is_file():
                time.sleep(0.2)
            kill_tree(nodes[2])

        killer = threading.Thread(target=kill_one_in_mid_run)
        killer.start()
        results, log = flower.run(KILLED)
        killer.join()

    assert results["status"] == "completed", log
    rounds = results["rounds"]
    assert [entry["round"] for entry in rounds] == [1, 2, 3]
    assert rounds[0]["clients"]["ok"] == 3
    assert rounds[-1]["clients"]["ok"] == 2
    lost = [entry["clients"] for entry in rounds[1:] if entry["clients"]["failed"]]
    assert lost, "the loss of client 2 was not reported"
    assert all(set(clients["failed_clients"]) == {"2"} for clients in lost)
    assert "failed: 1 " in log


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("codec='zip'", "codec = 'zip': choose one of"),
        ("dataset='npz:/nowhere.npz'", "no file at /nowhere.npz"),
        ("colour='red'", "Invalid run configuration"),  # Flower's own check: the key is not in pyproject.toml
    ],
)
def test_wrong_values_stop_at_once_and_say_why(tmp_path: Path, config: str, expected: str) -> None:
    status, log = simulate(tmp_path, f"{SMALL} {config}", supernodes=2)
    assert status == 1
    assert expected in log
