"""A run that was killed goes on as if it had never been: the same digests, and one account of all its rounds."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.in_process import run_in_process
from common.config.run import RunConfig, as_toml
from common.errors import RoundError
from deltamask_server.methods.deltamask.strategy import DeltaMask
from deltamask_server.results_file import read_results
from deltamask_server.tools.cli import app
from tests.test_state import SHARED

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = 3
NODES = [{"partition-id": k, "num-partitions": CLIENTS} for k in range(CLIENTS)]
BASE: dict[str, Any] = SHARED | {"num_server_rounds": 3, "test_limit": 100, "head": "ridge", "min_clients": 3}


def whole_run(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    return run_in_process(folder, config, NODES)


def killed_run(folder: Path, config: dict[str, Any], writes: int, run_id: int = 1) -> bool:
    """Whether it was killed before it ended."""
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text(as_toml(RunConfig(**config).as_dict()), encoding="utf-8")
    (folder / "nodes.json").write_text(json.dumps(NODES))
    command = [sys.executable, "-m", "tests.killed", str(writes), str(folder / "config.toml")]
    command += [str(folder / "nodes.json"), str(folder), str(run_id)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -9), done.stdout + done.stderr
    return done.returncode == -9


def comparable(results: dict[str, Any]) -> list[dict[str, Any]]:
    """What two runs of one config have in common: all but times, and what clients that have it already are not sent."""
    differ = ("seconds", "downlink")
    rounds = [{key: value for key, value in entry.items() if key not in differ} for entry in results["rounds"]]
    return [*rounds, {key: value for key, value in results["kept"].items() if "loss" not in key}]


def as_without_seconds(entries: list[dict[str, Any]]) -> str:
    """Client metrics hold seconds too, at any depth."""
    return re.sub(r'"seconds": [0-9.e-]+', '"seconds": 0', json.dumps(entries))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return whole_run(tmp_path_factory.mktemp("whole"), BASE)


@pytest.mark.parametrize("writes", [21, 33])
def test_a_run_killed_after_any_write_goes_on(writes: int, whole: dict[str, Any], tmp_path: Path) -> None:
    assert killed_run(tmp_path, BASE, writes)
    left = read_results(tmp_path / "runs" / "latest")
    assert left["status"] == "running"
    results = run_in_process(tmp_path, BASE | {"resume": "latest"}, NODES, run_id=2)
    assert results["status"] == "completed"
    assert results["resumed"][0]["run_id"] == "2"
    assert as_without_seconds(comparable(results)) == as_without_seconds(comparable(whole))
    assert results["linear_probe"]["validation"] == whole["linear_probe"]["validation"]
    assert not list((tmp_path / "runs" / "latest").rglob("*.tmp"))


def test_a_run_that_is_stopped_from_outside_says_so_and_how_to_go_on(
    whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise SystemExit(0)  # as Flower does when it is told to end

    with monkeypatch.context() as patch:
        patch.setattr("deltamask_server.methods.deltamask.strategy.DeltaMask.evaluate", stop)
        with pytest.raises(SystemExit):
            run_in_process(tmp_path, BASE | {"eval_every": 2}, NODES)
    run = (tmp_path / "runs" / "latest").resolve()
    left = read_results(run)
    assert (left["status"], left["reason"], len(left["rounds"])) == ("stopped", "stopped from outside (SystemExit)", 1)
    assert f"Resume      flwr run . CONNECTION --stream --run-config {run / 'resume.toml'}" in capsys.readouterr().out
    status = CliRunner().invoke(app, ["status", str(run)])
    assert (status.exit_code, status.stdout.splitlines()[0]) == (
        4,
        "stopped: stopped from outside (SystemExit); 1 of 3 rounds",
    )
    config = tomllib.loads((run / "resume.toml").read_text())
    results = run_in_process(
        tmp_path, {key: value for key, value in config.items() if key != "output-dir"}, NODES, run_id=3
    )
    assert [entry["digest"] for entry in results["rounds"]] == [entry["digest"] for entry in whole["rounds"]]
    assert "reason" not in results
    assert CliRunner().invoke(app, ["status", str(run)]).exit_code in (0, 3)


def test_a_full_disk_costs_no_run(
    whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = {"": False}
    replace, fsync = os.replace, os.fsync

    def check(function: Any) -> Any:
        def call(*args: Any) -> None:
            if (full[""] and "runs" in str(args[-1])) or (full[""] and isinstance(args[0], int)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            function(*args)

        return call

    monkeypatch.setattr(os, "replace", check(replace))
    monkeypatch.setattr(os, "fsync", check(fsync))
    begin, end = DeltaMask.begin_round, DeltaMask.configure_train
    monkeypatch.setattr(DeltaMask, "begin_round", lambda self, r: (full.update({"": r == 2}), begin(self, r))[1])
    monkeypatch.setattr(
        DeltaMask, "configure_train", lambda self, r, *a: (full.update({"": False}), end(self, r, *a))[1]
    )
    results = run_in_process(tmp_path, BASE, NODES)
    assert results["status"] == "completed"
    assert [entry["digest"] for entry in results["rounds"]] == [entry["digest"] for entry in whole["rounds"]]
    run = (tmp_path / "runs" / "latest").resolve()
    assert [json.loads(line)["round"] for line in (run / "rounds.jsonl").read_text().splitlines()] == [1, 2, 3]
    said = capsys.readouterr().out
    for what in ("rounds.jsonl", "the checkpoint", "payload.bin", "model.safetensors"):
        assert f"  {what} could not be written: " in said
    assert not list(run.rglob("*.tmp"))
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        "round-000001.safetensors",
        "round-000003.safetensors",
    }


def test_a_round_with_too_few_replies_is_tried_again(
    whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = {1: 1, 3: 2}  # round -> how often its replies are lost
    aggregate = DeltaMask.aggregate_train

    def some_lost(self: DeltaMask, server_round: int, replies: Any) -> Any:
        found = list(replies)
        if lost.get(server_round, 0):
            lost[server_round] -= 1
            found = found[:1]
        return aggregate(self, server_round, found)

    monkeypatch.setattr(DeltaMask, "aggregate_train", some_lost)
    results = run_in_process(tmp_path, BASE | {"round_retries": 2, "retry_wait_seconds": 0.0}, NODES)
    assert [entry["digest"] for entry in results["rounds"]] == [entry["digest"] for entry in whole["rounds"]]
    said = capsys.readouterr().out
    assert said.count("1 of 3 replies usable in round 3, quorum is 3; failed: 2 no-reply; trying again in 0 s") == 2
    lost[2] = 3
    with pytest.raises(RoundError, match="replies usable in round 2"):
        run_in_process(tmp_path, BASE | {"round_retries": 2, "retry_wait_seconds": 0.0}, NODES)
    assert "Resume      flwr run" in capsys.readouterr().out
