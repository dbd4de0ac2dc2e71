"""What goes wrong on machines that nobody looks after: clocks that are set, sites without images, runs in a row."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from benchmarks.in_process import Node
from tests.e2e.in_process import run_in_process

CONFIG: dict[str, Any] = {
    "train-limit": 60,
    "test-limit": 30,
    "local-epochs": 1,
    "masked-blocks": 1,
    "num-server-rounds": 3,
    "round-retries": 0,
    "node-wait-seconds": 2.0,
}
NODES: list[dict[str, Any]] = [{"partition-id": number, "num-partitions": 2} for number in range(2)]
DAY = 24 * 3600


def digests(results: dict[str, Any]) -> list[str]:
    assert results["status"] == "completed"
    assert not any(entry["clients"]["failed"] for entry in results["rounds"])
    return [entry["digest"] for entry in results["rounds"]]


def test_clocks_that_are_set_meanwhile_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run_in_process(tmp_path / "steady", CONFIG, NODES)
    real, jumps = time.time, iter(range(1_000))

    def jumping(number: int, node: Node) -> Node:
        def answer(message: Message) -> list[Message]:
            # Every message finds another day, up to a month away, both ways.
            days = 30 * (1 if next(jumps) % 2 else -1)
            monkeypatch.setattr(time, "time", lambda: real() + days * DAY)
            return node(message)

        return answer

    found = run_in_process(tmp_path / "jumping", CONFIG, NODES, wrap=jumping)
    assert digests(found) == digests(expected)
    assert [entry["downlink"] for entry in found["rounds"]] == [entry["downlink"] for entry in expected["rounds"]]


def test_runs_in_a_row_know_nothing_of_each_other(tmp_path: Path) -> None:
    # One after the other with the same caches, as on devices that serve for months; and alone.
    found = [run_in_process(tmp_path, CONFIG | {"seed": seed}, NODES, run_id=run) for run, seed in ((1, 5), (2, 6))]
    alone = run_in_process(tmp_path / "alone", CONFIG | {"seed": 6}, NODES, run_id=9)
    assert digests(found[0]) != digests(found[1]) == digests(alone)
    assert (tmp_path / "runs" / "latest" / "results.json").is_file()
    assert len(list((tmp_path / "runs").glob("2*"))) == 2


def sites(folder: Path, write: Callable[[Path, int], None]) -> list[dict[str, Any]]:
    folder.mkdir()
    for number in range(3):
        write(folder / f"{number}.npz", number)
    each = [{"partition-id": number, "num-partitions": 3} for number in range(3)]
    return [one | {"data": f"npz:{folder / str(number)}.npz"} for number, one in enumerate(each)]


def test_a_site_without_images_does_not_take_part_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)

    def write(path: Path, number: int) -> None:
        count = 0 if number == 1 else 20
        pixels = rng.integers(0, 256, (count, 8, 8), dtype=np.uint8)
        np.savez(path, x_train=pixels, y_train=np.arange(count) % 10)

    results = run_in_process(tmp_path, CONFIG, sites(tmp_path / "sites", write))
    assert results["status"] == "completed"
    assert [entry["clients"]["ok"] for entry in results["rounds"]] == [2, 2, 2]
    assert "it answered with an error: DataError" in capsys.readouterr().out


def test_a_site_with_one_image_takes_part(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def write(path: Path, number: int) -> None:
        count = 1 if number == 1 else 20
        np.savez(path, x_train=rng.integers(0, 256, (count, 8, 8), dtype=np.uint8), y_train=np.arange(count) % 10)

    results = run_in_process(tmp_path, CONFIG, sites(tmp_path / "sites", write))
    assert results["status"] == "completed"
    assert [entry["clients"]["ok"] for entry in results["rounds"]] == [3, 3, 3]
