"""Checkpoints: written whole, checked when read, and one before the last to go back to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from common.config.run import RunConfig
from common.errors import CheckpointError
from common.models.accuracy import Scored
from common.saved import Saved
from deltamask_server.checkpoints import Checkpoints, _digest, read_checkpoint
from deltamask_server.processes import is_gone, this_process
from deltamask_server.resume import find_checkpoint, load_tested, run_folder_of, save_tested

CONFIG = RunConfig(num_server_rounds=5)
SAVED = Saved(
    {"theta": np.arange(70, dtype=np.uint16), "head/weight": np.ones((2, 3), np.float32)}, {"round": 2, "x": None}
)


def write(folder: Path, *rounds: int, keep_every: int = 0, config: RunConfig = CONFIG) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep_every)
    for server_round in rounds:
        checkpoints.write(server_round, SAVED, config.as_dict(), run=2**64 - 1)
    return checkpoints


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = write(tmp_path, 2).newest()
    assert (found.server_round, found.run, found.config) == (2, 2**64 - 1, CONFIG.as_dict())
    assert found.saved.values == SAVED.values
    assert found.saved.arrays.keys() == SAVED.arrays.keys()
    for name, array in SAVED.arrays.items():
        assert found.saved.arrays[name].dtype == array.dtype
        assert np.array_equal(found.saved.arrays[name], array)


@pytest.mark.parametrize(("keep_every", "left"), [(0, [6, 7]), (3, [3, 6, 7]), (2, [2, 4, 6, 7])])
def test_the_last_two_stay_and_those_to_be_kept(keep_every: int, left: list[int], tmp_path: Path) -> None:
    write(tmp_path, *range(8), keep_every=keep_every)
    assert sorted(int(path.stem[-6:]) for path in tmp_path.iterdir()) == left


def test_those_of_a_future_that_did_not_come_are_removed(tmp_path: Path) -> None:
    write(tmp_path, 3, 4)
    checkpoints = write(tmp_path, 2, keep_every=4)
    assert checkpoints.newest().server_round == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other file"])
def test_a_damaged_one_is_named_and_the_one_before_is_used(damage: str, tmp_path: Path) -> None:
    checkpoints, said = write(tmp_path, 3, 4), []
    path = tmp_path / "round-000004.safetensors"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes({"cut": data[:-9], "flipped": data, "empty": b"", "other file": b"{}" * 99}[damage])
    assert checkpoints.newest(said.append).server_round == 3
    assert len(said) == 1
    assert str(path) in said[0]


def test_without_any_that_can_be_read_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint; the run cannot be resumed: start it anew"):
        Checkpoints(tmp_path).newest()
    checkpoints = write(tmp_path, 1)
    (tmp_path / "round-000001.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of its checkpoints can be read"):
        checkpoints.newest(lambda line: None)


def test_values_that_were_changed_by_hand_are_damage(tmp_path: Path) -> None:
    write(tmp_path, 1)
    path = tmp_path / "round-000001.safetensors"
    path.write_bytes(path.read_bytes().replace(b'\\"round\\": 2', b'\\"round\\": 1'))
    with pytest.raises(CheckpointError, match="it is damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("about", None),
        ("values", None),
        ("about", "{"),
        ("about", "[" * 100_000),
        ("about", "[]"),
        ("about", '{"round": 1, "run": 1}'),
        ("about", '{"round": 1e999, "run": 1, "config": {}}'),
        ("about", '{"round": 1, "run": "one", "config": {}}'),
        ("about", '{"round": 1, "run": 1, "config": []}'),
        ("values", "null"),
    ],
)
def test_a_file_of_another_release_is_no_checkpoint(name: str, text: str | None, tmp_path: Path) -> None:
    """Its digest fits, and the one before is used."""
    checkpoints, said = write(tmp_path, 1, 2), []
    path = tmp_path / "round-000002.safetensors"
    with safe_open(path, "np") as file:
        texts = {key: value for key, value in file.metadata().items() if key not in ("digest", name)}
    texts |= {} if text is None else {name: text}
    save_file(SAVED.arrays, path, texts | {"digest": _digest(SAVED.arrays, texts)})
    assert checkpoints.newest(said.append).server_round == 1
    assert "it does not say what this release reads" in said[0]


@pytest.mark.parametrize(("ours", "theirs"), [("uint16", "BF16"), ("uint8", "F8_E4M3")])
def test_arrays_of_a_type_that_numpy_lacks_are_no_checkpoint(ours: str, theirs: str, tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).write(1, Saved({"a": np.ones(8, ours)}), {}, run=1)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].replace(ours.upper().replace("INT", "").encode(), theirs.encode())
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    with pytest.raises(CheckpointError, match=f"cannot be read: .*({'bfloat16' if theirs == 'BF16' else 'float8'})"):
        read_checkpoint(path)


def test_answers_to_test_images_are_kept_by_round() -> None:
    tested = {0: Scored(0.5, 0.75, np.array([[3, 1], [0, 0]])), 4: Scored(0.25, 1.0, np.eye(2, dtype=np.int64))}
    saved = save_tested(tested)
    loaded = load_tested(Saved(saved.arrays, json.loads(json.dumps(saved.values))))
    assert {number: scored[:2] for number, scored in loaded.items()} == {0: (0.5, 0.75), 4: (0.25, 1.0)}
    assert np.array_equal(loaded[0].confusion, tested[0].confusion)


# -- which run may go on


def a_run(folder: Path, **results: Any) -> Path:
    run = folder / "runs" / "20261127-000000-1"
    write(run / "checkpoints", 3)
    (run / "results.json").write_text(json.dumps({"status": "stopped", "rounds": [], **results}))
    (folder / "runs" / "latest").symlink_to(run.name)
    return run


@pytest.mark.parametrize("name", ["latest", "runs/latest", "runs/20261127-000000-1"])
def test_a_run_is_named_by_its_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run_folder_of(CONFIG.replace(resume=name)) == run
    assert find_checkpoint(run, CONFIG.replace(resume=name)).server_round == 3


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="resume = 'latest': there is no run in"):
        run_folder_of(CONFIG.replace(resume="latest", output_dir=str(tmp_path)))


def test_what_may_differ_and_what_may_not(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    allowed = CONFIG.replace(resume="latest", num_server_rounds=9, patience=2, eval_every=3, node_wait_seconds=5)
    assert find_checkpoint(run, allowed).server_round == 3
    with pytest.raises(CheckpointError, match=r"codec was 'exact', and is 'fuse8'; seed was 1, and is 2.*resume\.toml"):
        find_checkpoint(run, CONFIG.replace(resume="latest", seed=2, codec="fuse8"))
    with pytest.raises(CheckpointError, match="has had its 3 rounds; for more, raise num-server-rounds"):
        find_checkpoint(run, CONFIG.replace(resume="latest", num_server_rounds=3))


def test_a_run_that_goes_on_cannot_be_taken_up(tmp_path: Path) -> None:
    run = a_run(tmp_path, status="running", **this_process())
    with pytest.raises(CheckpointError, match=f"this run goes on in process {os.getpid()} of "):
        find_checkpoint(run, CONFIG.replace(resume="latest"))


def test_a_results_file_that_somebody_spoilt_is_named(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    (run / "results.json").write_text('{"status": stopped}')
    with pytest.raises(CheckpointError, match=r"results\.json: cannot be read, Expecting .*; if it was edited by hand"):
        find_checkpoint(run, CONFIG.replace(resume="latest"))


def test_a_process_is_told_from_a_later_one_of_the_same_number() -> None:
    ours = this_process()
    assert not is_gone(ours)
    assert is_gone({"process": ours["process"] | {"began": "1 ticks after the start of another machine"}})
    assert is_gone({"process": ours["process"] | {"pid": 2**22 + 1}})
    assert not is_gone({"process": ours["process"] | {"host": "elsewhere", "pid": 2**22 + 1}}), "it cannot be told"
    assert not is_gone({}), "runs from before"
