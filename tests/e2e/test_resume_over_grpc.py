"""A deployed run whose ServerApp, or whose SuperLink, is killed: resumed, it ends as it would have without."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from deploy.processes import kill_tree
from tests.e2e.flower import ROOT, Flower
from tests.e2e.in_process import as_text, run_in_process

pytestmark = pytest.mark.slow

CLIENTS = 2
CONFIG = {
    "train-limit": 120,
    "test-limit": 100,
    "local-epochs": 1,
    "masked-blocks": 1,
    "num-server-rounds": 5,
    "min-clients": CLIENTS,
    "seed": 7,
}
NODES = [{"partition-id": number, "num-partitions": CLIENTS} for number in range(CLIENTS)]


def rounds_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]


def resume(flower: Flower, run: Path) -> str:
    command = ["flwr", "run", str(ROOT), "test", "--stream", "--run-config", str(run / "resume.toml")]
    done = subprocess.run(command, env=flower.env, cwd=flower.folder, capture_output=True, text=True, timeout=400)
    return done.stdout + done.stderr


@pytest.mark.parametrize("killed", ["ServerApp", "SuperLink"])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, killed: str) -> None:
    expected = run_in_process(tmp_path / "in-process", CONFIG, NODES)
    with Flower(tmp_path / "deployment") as flower:
        for number in range(CLIENTS):
            flower.supernode(number, of=CLIENTS)
        run = flower.folder / "runs" / "latest"

        def kill_in_mid_run() -> None:
            lines, end = run / "rounds.jsonl", time.monotonic() + 300
            while time.monotonic() < end and not (lines.is_file() and lines.read_bytes().count(b"\n") >= 2):
                time.sleep(0.1)
            if killed == "SuperLink":
                kill_tree(flower.processes[0])  # and the ServerApp with it, as a power cut does
            else:
                os.kill(json.loads((run / "results.json").read_text())["process"]["pid"], signal.SIGKILL)

        killer = threading.Thread(target=kill_in_mid_run)
        killer.start()
        _, log = flower.run(as_text(CONFIG), timeout=400)
        killer.join()
        assert 2 <= len(rounds_of(run)) < 5, log
        if killed == "SuperLink":
            flower.start_superlink()
        log = resume(flower, run.resolve())
        results = json.loads((run / "results.json").read_text())
        assert results["status"] == "completed", log + flower.logs()
    assert [entry["digest"] for entry in rounds_of(run)] == [entry["digest"] for entry in expected["rounds"]]
    assert results["kept"] == expected["kept"]
