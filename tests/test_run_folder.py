from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Context, MetricRecord, RecordDict
from safetensors import safe_open
from typer.testing import CliRunner

from common.config.run import RunConfig
from common.models.accuracy import Scored
from common.models.heads import Head
from common.theta import theta_digest
from deltamask_server.app import main
from deltamask_server.console import outcome, round_line, summary
from deltamask_server.kept import Keeper
from deltamask_server.results_file import read_results
from deltamask_server.rounds import RoundReport
from deltamask_server.run_folder import RunFolder
from deltamask_server.tally import Tally
from deltamask_server.tools.cli import app
from deltamask_server.tools.watch import follow

THETA = np.arange(1, 81, dtype=np.uint16) * 800
HEAD = Head(np.ones((2, 3), np.float32), np.zeros(2, np.float32))


def report(number: int, mean: float | None = 0.6) -> RoundReport:
    metrics = {"examples": 10.0, "loss": 0.25, "accuracy": 0.9, "seconds": 1.0, "broken": 0}
    tally = Tally((0, 1, 2), {0: 10, 2: 30}, {0: 50, 2: 70}, {0: metrics, 2: metrics})
    tally.drop(1, "checksum")
    forms = None if mean is None else MetricRecord({"mean": mean, "sample": 0.5, "threshold": 0.55})
    return RoundReport(
        number, tally, {0: 160, 1: 160, 2: 160}, theta_digest(THETA), forms, {"train": 2.0, "aggregate": 0.5}
    )


def scored(accuracy: float) -> Scored:
    """A network's answers to 100 images, three in four of them of the first class, of which all wrong ones are."""
    wrong = round(100 * (1 - accuracy))
    return Scored(0.5, accuracy, np.array([[75 - wrong, wrong], [0, 25]]))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder.create(tmp_path / "runs", 42, RunConfig(num_server_rounds=2).as_dict())
    folder.set_model("letters-vit", b"12345678", (50, 30))
    folder.set_linear_probe(scored(0.5), Tally((0, 2), {0: 32, 2: 32}), 1.0)
    return folder


def test_results_follow_the_contract(folder: RunFolder) -> None:
    folder.add_round(report(1), scored(0.6))
    assert json.loads((folder.path / "results.json").read_text())["rounds"] == [], "they come when the run ends"
    results = read_results(folder.path)
    assert results["status"] == "running"
    assert results["model"]["name"] == "letters-vit"
    assert results["model"]["masked_parameters"] == 80
    assert results["linear_probe"]["accuracy"] == 0.5
    assert results["linear_probe"]["classes"] == {
        "balanced_accuracy": pytest.approx(2 / 3),
        "macro_f1": pytest.approx(0.5),
        "recall": [pytest.approx(1 / 3), 1.0],
    }
    assert "torch" in results["versions"]
    (entry,) = results["rounds"]
    assert entry["round"] == 1
    assert entry["accuracy"] == {"mean": 0.6, "sample": 0.5, "threshold": 0.55}
    assert entry["classes"]["recall"] == [pytest.approx(35 / 75), 1.0]
    assert entry["uplink"]["payload_bytes"] == {"0": 10, "2": 30}
    assert entry["uplink"]["bpp"] == 8 * 20 / 80  # mean over clients
    assert entry["downlink"] == {"payload_bytes": {"0": 160, "1": 160, "2": 160}, "bpp": 16.0}
    assert entry["clients"] == {"asked": 3, "ok": 2, "failed": {"checksum": 1}, "failed_clients": {"1": "checksum"}}
    assert entry["digest"] == theta_digest(THETA).hex()
    assert [json.loads(line) for line in (folder.path / "rounds.jsonl").read_text().splitlines()] == [entry]


def test_a_run_that_was_cut_off_has_every_round_that_it_finished(folder: RunFolder) -> None:
    entries = [folder.add_round(report(number)) for number in (1, 2)]
    with (folder.path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "accura')  # the machine went down here
    assert read_results(folder.path)["rounds"] == entries
    folder.finish("failed", "cut off")
    assert json.loads((folder.path / "results.json").read_text()) == folder.results
    assert read_results(folder.path)["rounds"] == entries


def test_latest_points_to_the_newest_run(folder: RunFolder) -> None:
    runs = folder.path.parent
    assert (runs / "latest").resolve() == folder.path
    newer = RunFolder.create(runs, 43, {})
    assert (runs / "latest").resolve() == newer.path
    assert not [path for path in runs.iterdir() if path.name.startswith(".")]


def test_the_model_can_be_read_back(folder: RunFolder) -> None:
    path = folder.save_model({"theta": torch.from_numpy(THETA.astype(np.int32)).to(torch.uint16)}, HEAD)
    with safe_open(path, "np") as file:
        assert np.array_equal(file.get_tensor("theta"), THETA)
        assert np.array_equal(file.get_tensor("head.weight"), HEAD.weight)
        assert file.metadata()["backbone_digest"] == b"12345678".hex()


def test_summary_says_what_a_person_asks_first(folder: RunFolder) -> None:
    folder.add_round(report(1, 0.75))
    folder.finish("completed")
    text = summary(folder.results, folder.path)
    for part in (
        "completed",
        "ridge head 0.5000 -> mean mask 0.7500, 50 % fewer errors",
        "2.0000 bits",
        "16.000 bits",
    ):
        assert part in text
    assert "1 replies were missing or dropped" in text
    assert str(folder.path) in text


def test_a_round_without_evaluation_is_shown_and_summed_up_by_the_last_that_has_one(folder: RunFolder) -> None:
    folder.add_round(report(1, 0.75))
    entry = folder.add_round(report(2, None))
    assert entry["accuracy"] is None
    assert entry["classes"] is None
    assert round_line(entry).split()[:5] == ["2", "-", "-", "-", "-"]
    assert "mean mask 0.7500" in summary(folder.results, folder.path)


def test_a_method_with_one_form_of_its_model_is_summed_up_by_it(folder: RunFolder) -> None:
    folder.results["config"] = RunConfig(method="fedavg").as_dict()
    entry = folder.add_round(replace(report(1), evaluation=MetricRecord({"mean": 0.75})))
    assert round_line(entry).split()[:4] == ["1", "0.7500", "-", "-"]
    assert "ridge head 0.5000 -> mean of weights 0.7500, 50 % fewer errors" in summary(folder.results, folder.path)


# -- the model that is kept


FOUND = {"examples": 10, "loss": 0.5, "accuracy": 0.5, "balanced": 0.4, "macro_f1": 0.3}
TENSORS = {"theta": torch.from_numpy(THETA.astype(np.int32)).to(torch.uint16)}
TESTED = {0: scored(0.5), 1: scored(0.75), 2: scored(0.7)}


def looked(*accuracies: float | None) -> Keeper:
    """Who heard so much of the models of rounds 0, 1, ..."""
    keeper = Keeper()
    for server_round, accuracy in enumerate(accuracies):
        keeper.look(server_round, None if accuracy is None else (accuracy, 1 - accuracy), lambda: TENSORS, HEAD)
    return keeper


@pytest.mark.parametrize(
    ("accuracies", "kept", "said"),
    [
        ((0.5, 0.8, 0.7), 1, "completed, model of round 1 kept: 50.0 % -> 80.0 % on images held out"),
        ((0.8, 0.7, 0.6), 0, "training did not improve on the head (80.0 % -> 60.0 % on images held out): kept the"),
        ((None, 0.8, 0.7), 1, "completed, model of round 1 kept: 80.0 % on images held out"),
        ((None, None, None), 2, "completed, model of the last round kept; whether it is better than the head was not"),
    ],
)
def test_the_outcome_says_which_model_is_kept(
    folder: RunFolder, accuracies: tuple[float | None, ...], kept: int, said: str
) -> None:
    folder.set_data(("ant", "bee"), 100, 0)
    for number in (1, 2):
        folder.add_round(report(number, TESTED[number].accuracy), TESTED[number])
    folder.set_kept(looked(*accuracies), 2, TESTED)
    folder.finish("completed")
    entry = json.loads((folder.path / "results.json").read_text())["kept"]
    assert (entry["round"], entry["held_out_head"], entry["held_out_last"]) == (kept, accuracies[0], accuracies[-1])
    assert entry["held_out_accuracy"] == accuracies[kept]
    assert entry["accuracy"] == TESTED[kept].accuracy
    assert entry["classes"]["confusion"] == TESTED[kept].confusion.tolist()
    assert said in outcome(folder.results)
    assert f"-> mean mask {TESTED[kept].accuracy:.4f}" in summary(folder.results, folder.path)


def test_the_heads_figures_on_images_held_out_are_written(folder: RunFolder) -> None:
    folder.set_head_validation(report(1).tally, {0: 160, 2: 160})
    probe = json.loads((folder.path / "results.json").read_text())["linear_probe"]
    assert probe["accuracy"] == 0.5
    assert probe["validation"]["pooled"] == pytest.approx(0.9)
    assert probe["downlink"] == {"payload_bytes": {"0": 160, "2": 160}, "bpp": 16.0}


def test_what_a_round_says_of_an_earlier_model_is_written_where_it_belongs(folder: RunFolder) -> None:
    for number in (1, 2, 3):
        said = Tally((0, 2), metrics={0: FOUND, 2: FOUND | {"accuracy": 0.5 + number / 10}})
        folder.add_round(replace(report(number), earlier=(number - 1, said)))
    under_way = read_results(folder.path)
    folder.finish("completed")
    for results in (under_way, read_results(folder.path)):
        (head, *rounds) = (results["linear_probe"], *results["rounds"])
        assert [entry["validation"]["clients"]["2"]["accuracy"] for entry in (head, *rounds[:2])] == [0.6, 0.7, 0.8]
        assert rounds[2]["validation"] is None
        assert not any("earlier" in entry for entry in rounds)
    lines = [json.loads(line) for line in (folder.path / "rounds.jsonl").read_text().splitlines()]
    assert [line["earlier"]["round"] for line in lines] == [0, 1, 2], "lines that are written stay as they are"


def test_a_model_that_was_not_tested_is_kept_all_the_same(folder: RunFolder) -> None:
    folder.add_round(report(1, None))
    folder.set_kept(looked(0.5, 0.8), 1, {0: TESTED[0]})
    assert folder.results["kept"]["round"] == 1
    assert folder.results["kept"]["accuracy"] is folder.results["kept"]["classes"] is None


def test_the_summary_names_the_classes_that_are_told_apart_worst(folder: RunFolder) -> None:
    folder.set_data(("ant", "bee"), 100, 0)
    folder.add_round(report(1, 0.75), TESTED[1])
    folder.set_kept(looked(0.5, 0.8), 1, TESTED)
    assert "balanced accuracy 0.8333, macro F1 0.7333; lowest recall: ant 0.67, bee 1.00" in summary(
        folder.results, folder.path
    )


def test_a_run_that_failed_says_why_and_no_more(folder: RunFolder) -> None:
    folder.set_kept(looked(0.5, 0.8), 1, TESTED)
    folder.finish("failed", "too few clients")
    assert outcome(folder.results) == "failed: too few clients"


# -- following a run


def test_following_a_run_whose_server_was_killed_ends(folder: RunFolder, capsys, monkeypatch) -> None:
    monkeypatch.setattr("deltamask_server.tools.watch._SUSPICIOUS_SECONDS", 0.01)
    assert follow(folder.path, has_ended=lambda: True) is False
    assert "the server ended without finishing" in capsys.readouterr().out


def test_a_run_that_ends_while_one_asks_about_it_is_no_failure(folder: RunFolder, monkeypatch) -> None:
    monkeypatch.setattr("deltamask_server.tools.watch._SUSPICIOUS_SECONDS", 0.01)

    def has_ended() -> bool:
        folder.finish("completed")
        return True

    assert follow(folder.path, has_ended) is True


def test_the_command_watch_ends_with_the_run(folder: RunFolder) -> None:
    folder.add_round(report(1, 0.75))
    folder.finish("completed")
    done = CliRunner().invoke(app, ["watch", str(folder.path.parent / "latest")])
    assert done.exit_code == 0
    assert "ridge head: accuracy 0.5000" in done.stdout
    assert "ridge head 0.5000 -> mean mask 0.7500" in done.stdout
    folder.finish("failed", "too few clients")
    assert CliRunner().invoke(app, ["watch", str(folder.path)]).exit_code == 1
    nothing = CliRunner().invoke(app, ["watch", str(folder.path.parent)])
    assert nothing.exit_code == 2
    assert nothing.stderr == f"Error: no run at {folder.path.parent}: start one, or name its folder\n"


@pytest.mark.parametrize("command", ["status", "watch"])
def test_a_results_file_that_somebody_spoilt_is_one_line(command: str, folder: RunFolder) -> None:
    (folder.path / "results.json").write_text('{"status": stopped}')
    done = CliRunner().invoke(app, [command, str(folder.path)])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {folder.path / 'results.json'}: cannot be read, Expecting value")
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_for_runs_that_cannot_be_written_is_one_line(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    config = RunConfig(output_dir=str(tmp_path / "file" / "runs")).as_dict()
    with pytest.raises(OSError, match="Not a directory"):
        main(None, Context(1, 1, {}, RecordDict(), config))
    said = capsys.readouterr().out
    assert said.startswith("ERROR  the run's folder cannot be written: [Errno 20] Not a directory")
    assert said.endswith("; name another output-dir, or make room there\n")


def test_tally_counts_each_client_once() -> None:
    tally = Tally((0, 1, 2), {0: 5})
    tally.drop(0, "duplicate")
    tally.drop(1, "checksum")
    tally.drop(None, "bad-payload")
    tally.close()
    assert tally.failures == {1: "checksum", 2: "no-reply"}
    assert tally.dropped == Counter({"duplicate": 1, "checksum": 1, "bad-payload": 1, "no-reply": 1})
