"""The report of a run: right numbers, nothing from elsewhere, and a page that a browser shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from flwr.app import MetricRecord
from PIL import Image
from typer.testing import CliRunner, Result

from common.config.run import RunConfig
from common.errors import DataError
from deltamask_server.console import outcome
from deltamask_server.results_file import read_results
from deltamask_server.rounds import RoundReport
from deltamask_server.run_folder import RunFolder
from deltamask_server.tally import Tally
from deltamask_server.tools.cli import app
from deltamask_server.tools.report import parse_run, read_run, write_report
from deltamask_server.tools.report.wording import amount
from tests.e2e.in_process import run_in_process
from tests.test_run_folder import report, scored

HOSTILE = "</style><script>alert(1)</script>\"'&<img src=http://example.org/x>"
VOID = {"meta", "img", "br", "link", "input", "hr"}
CONFIG = {
    "masked-blocks": 1, "train-limit": 200, "test-limit": 60, "local-epochs": 1, "num-server-rounds": 2,
    "head": "linear-probe", "head-epochs": 20, "validation-fraction": 0.2, "codec": "fuse8", "score-optimiser": "adam",
}  # fmt: skip
NODES = [{"partition-id": number, "num-partitions": 2} for number in range(2)]


class Page(HTMLParser):
    """What a page holds: texts, tables, addresses; tags must be balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.styles: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.addresses += [str(values[name]) for name in ("src", "href", "srcset", "action", "data") if name in values]
        self.styles += [str(values["style"])] if "style" in values else []
        assert not [name for name in values if name.startswith("on")]
        if values.get("role") == "region":
            self._rows = self.tables.setdefault(str(values["aria-label"]), [])
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.styles.append(data)
        elif {"td", "th"} & set(self.open):
            self._rows[-1][-1] += data.replace("\N{NO-BREAK SPACE}", " ")
        self.text += data

    def column(self, table: str, head: str) -> list[str]:
        heads, *rows = self.tables[table]
        return [row[heads.index(head)] for row in rows]


def page_of(folder: Path) -> Page:
    """The page that `deltamask report` writes, which must be whole in itself."""
    result = run("report", folder)
    assert result.exit_code == 0, result.output
    assert str(folder / "report.html") in result.output
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not [style for style in page.styles if re.search(r"url\(|@import|//", style)]
    return page


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"TERM": "dumb"})


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with two clients and two rounds."""
    folder = tmp_path_factory.mktemp("report")
    assert run_in_process(folder, CONFIG, NODES)["status"] == "completed"
    return (folder / "runs" / "latest").resolve()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run in which a client has failed in the first round."""
    made = RunFolder.create(tmp_path / "runs", 42, RunConfig(num_server_rounds=3).as_dict())
    made.set_model("letters-vit", b"12345678", (50, 30))
    made.set_data(("a", "b"), 100, 3)
    made.set_linear_probe(scored(0.5), Tally((0, 2), {0: 32, 2: 32}), 1.0)
    made.add_round(report(1))
    return made


# -- a real run --------------------------------------------------------------------------------------------------------


def test_a_run_writes_its_page_which_is_the_one_of_the_command(real: Path, tmp_path: Path) -> None:
    assert run("report", real, "--output", tmp_path / "again.html").exit_code == 0
    assert (tmp_path / "again.html").read_bytes() == (real / "report.html").read_bytes()


def test_its_numbers_are_those_of_the_results(real: Path) -> None:
    results = json.loads((real / "results.json").read_text())
    page, rounds, head = page_of(real), results["rounds"], results["linear_probe"]
    assert page.column("Rounds", "round") == ["1", "2"]
    for form, name in (("mean", "mean mask, %"), ("sample", "sampled mask, %"), ("threshold", "thresholded mask, %")):
        assert page.column("Rounds", name) == [f"{100 * entry['accuracy'][form]:.2f}" for entry in rounds]
    assert page.column("Rounds", "held out, %") == [f"{100 * entry['validation']['mean']:.2f}" for entry in rounds]
    balanced = [f"{100 * entry['classes']['balanced_accuracy']:.2f}" for entry in rounds]
    assert page.column("Rounds", "balanced, %") == balanced
    assert page.column("Rounds", "up, bpp") == [f"{entry['uplink']['bpp']:.4f}" for entry in rounds]
    table = "Bytes that each client sent"
    assert page.column(table, "head round, bytes") == [f"{size:,}" for size in head["uplink"]["payload_bytes"].values()]
    sent = [sum(entry["uplink"]["payload_bytes"][client] for entry in rounds) for client in ("0", "1")]
    assert page.column(table, "rounds, bytes") == [f"{size:,}" for size in sent]
    received = [[entry["downlink"]["payload_bytes"][client] for entry in rounds] for client in ("0", "1")]
    table = "Bytes that each client was sent"
    assert page.column(table, "first message, bytes") == [f"{sizes[0]:,}" for sizes in received]
    assert page.column(table, "later messages, bytes") == [f"{sum(sizes[1:]):,}" for sizes in received]
    total = sum(head["uplink"]["payload_bytes"].values())
    assert page.column("Accuracy by traffic", "MB")[0] == f"{total / 1e6:,.3f}"
    for entry in rounds:
        total += sum(sum(entry[way]["payload_bytes"].values()) for way in ("uplink", "downlink"))
    assert page.column("Accuracy by traffic", "MB")[-1] == f"{total / 1e6:,.3f}"
    assert amount(total) in page.text
    before, after = head["accuracy"], results["kept"]["accuracy"]
    assert f"{100 * before:.1f} \N{RIGHTWARDS ARROW} {100 * after:.1f}" in page.text
    waited = [entry["seconds"]["train"] - entry["seconds"]["aggregate"] for entry in rounds]
    found = page.column("Time by phase", "wait for clients, s")[1:]
    assert [float(cell) for cell in found] == pytest.approx(waited, abs=0.002)


def test_classes_are_those_of_the_model_that_is_kept(real: Path) -> None:
    results, page = json.loads((real / "results.json").read_text()), page_of(real)
    figures = results["kept"]["classes"]
    assert page.column("Classes", "class") == list("0123456789")
    assert page.column("Classes", "recall, %") == [f"{100 * recall:.2f}" for recall in figures["recall"]]
    taken = [[cell.replace("·", "0") for cell in page.column("Classes", str(number))] for number in range(10)]
    assert np.array_equal(np.array(taken, int).T, figures["confusion"])
    assert outcome(results) in page.text


def test_the_image_is_the_one_that_travelled(real: Path, tmp_path: Path) -> None:
    kept = json.loads((real / "results.json").read_text())["payload"]
    payload = (real / "payload.bin").read_bytes()
    assert kept["round"] == 2
    assert kept["bytes"] == len(payload)
    assert run("inspect", real / "payload.bin", "--png", tmp_path / "inside.png").exit_code == 0
    page = page_of(real)
    (address,) = page.addresses
    assert b64decode(address.partition(",")[2]) == (tmp_path / "inside.png").read_bytes()
    assert f"Payload of client {kept['client']} in round 2" in page.text
    assert "The image that travelled" in page.text


def test_the_command_of_a_page_runs_it_again(real: Path) -> None:
    option = re.search(r'--run-config "(.*?)"', page_of(real).text)
    assert option
    settings = tomllib.loads(option[1].replace(" ", "\n"))
    assert settings == CONFIG
    assert "--supernodes 2 " in page_of(real).text


# -- pages of other runs -----------------------------------------------------------------------------------------------


def test_what_failed_is_shown_by_round_and_by_client(folder: RunFolder) -> None:
    times = "\N{MULTIPLICATION SIGN}"
    page = page_of(folder.path)
    assert page.column("Rounds", "failed") == [f"checksum {times} 1"]
    assert page.column("Rounds", "replies") == ["2/3"]
    clients = dict(zip(page.column("Clients", "client"), page.column("Clients", "failed"), strict=True))
    assert clients["1"] == f"checksum {times} 1"
    assert page.column("Clients", "replies used") == ["1/1", "0/1", "1/1"]
    assert "2 of 3" in page.text
    assert f"1 missing or dropped: checksum {times} 1" in page.text


def test_names_are_texts_and_never_markup(tmp_path: Path) -> None:
    config = RunConfig().as_dict() | {"dataset": HOSTILE, "output-dir": HOSTILE}
    made = RunFolder.create(tmp_path / "runs", 1, config)
    made.set_model(HOSTILE, b"12345678", (80,))
    made.set_data((HOSTILE, "\ud800"), 1, 0)
    made.set_linear_probe(scored(0.5), Tally((0,), {0: 32}), 1.0)
    tally = Tally((0,))
    tally.drop(0, HOSTILE)
    made.add_round(RoundReport(1, tally, {0: 1}, b"12345678", MetricRecord({HOSTILE: 0.5}), {"train": 1.0}))
    made.finish("failed", HOSTILE)
    html = (made.path / "report.html").read_text()
    page = page_of(made.path)
    assert "<script" not in html
    assert page.text.count(HOSTILE) > 5
    assert page.column("Rounds", "failed")[0].startswith(HOSTILE)


@pytest.mark.parametrize("head", [False, True])
def test_a_run_of_which_no_round_has_finished(tmp_path: Path, head: bool) -> None:
    made = RunFolder.create(tmp_path / "runs", 1, RunConfig().as_dict())
    if head:
        made.set_model("letters-vit", b"12345678", (80,))
        made.set_linear_probe(scored(0.5), Tally((0, 1), {0: 32, 1: 40}), 1.0)
    page = page_of(made.path)
    assert "running, 0 of 10 rounds" in page.text
    assert "no round has been tested yet" in page.text
    assert "Rounds" not in page.tables
    assert ("Clients" in page.tables) == head


def test_rounds_that_were_not_tested_leave_gaps(folder: RunFolder) -> None:
    folder.add_round(report(2, None))
    folder.add_round(report(3, 0.75))
    page = page_of(folder.path)
    assert page.column("Rounds", "mean mask, %") == ["60.00", "\N{EN DASH}", "75.00"]
    assert page.column("Accuracy by round", "round") == ["0", "1", "3"]
    assert "50.0 \N{RIGHTWARDS ARROW} 75.0" in page.text


@pytest.mark.parametrize("method", ["hidenseek", "fedavg", "lotteryfl"])
def test_methods_with_one_form_of_their_model(tmp_path: Path, method: str) -> None:
    made = RunFolder.create(tmp_path / "runs", 1, RunConfig(method=method, head="random").as_dict())
    made.set_model("lenet", b"12345678", (80,), 40 if method == "hidenseek" else None)
    made.set_linear_probe(scored(0.5), Tally(()), 0.0)
    whole = replace(report(1), evaluation=MetricRecord({"mean": 0.75}), payload=(2, bytes(range(100))))
    made.add_round(whole)
    page = page_of(made.path)
    name = "global signs" if method == "hidenseek" else "mean of weights"
    assert page.column("Rounds", f"{name}, %") == ["75.00"]
    assert ("4.000 for each weight kept" in page.text) == (method == "hidenseek")
    assert "What travelled is no image: 100 bytes, plain numbers" in page.text


def test_results_of_an_older_version_lack_what_came_later(folder: RunFolder) -> None:
    path = folder.path / "results.json"
    results = read_results(folder.path)
    del results["versions"], results["linear_probe"]["broken_images"]
    for key in ("personal", "validation", "broken_images", "digest"):
        del results["rounds"][0][key]
    results["rounds"][0]["train"]["loss"] = float("nan")
    results["config"] = {"method": "later", "head": "another"}
    path.write_text(json.dumps(results))
    page = page_of(folder.path)
    assert page.column("Rounds", "loss") == ["\N{EN DASH}"]
    assert "later on ?" in page.text


def test_an_accuracy_that_is_no_number_is_none(folder: RunFolder) -> None:
    path = folder.path / "results.json"
    results = read_results(folder.path)
    results["rounds"][0]["accuracy"] = {"mean": float("nan")}
    path.write_text(json.dumps(results))
    page = page_of(folder.path)
    assert "no round has been tested yet" in page.text
    assert "Accuracy by round" not in page.tables


def test_a_payload_that_has_been_replaced_meanwhile_is_not_shown(folder: RunFolder) -> None:
    folder.add_round(replace(report(2), payload=(0, b"12345")))
    assert page_of(folder.path).addresses
    (folder.path / "payload.bin").write_bytes(b"123456")
    assert not page_of(folder.path).addresses


def test_a_page_that_cannot_be_made_costs_no_run(folder: RunFolder, monkeypatch, capsys) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("deltamask_server.run_folder.write_report", fail)
    folder.finish("completed")
    assert json.loads((folder.path / "results.json").read_text())["status"] == "completed"
    assert "report.html could not be written: OSError: no space left" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no results.json in it; name the folder of a run"),
        ("{", "no JSON"),
        ("[]", "the whole"),
        ('{"status": "running", "config": {}}', "rounds: Field required; another version"),
        ('{"status": "running", "config": {}, "rounds": [{"round": 1}]}', "rounds.0.accuracy: Field required"),
        ('{"status": "running", "config": {}, "rounds": [], "model": {"name": "x", "masked_parameters": 0}}', "model"),
    ],
)
def test_a_folder_that_is_no_runs_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    result = run("report", tmp_path)
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(DataError):
        read_run(tmp_path)


def test_a_page_that_cannot_be_written_is_said(folder: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    result = run("report", folder.path, "--output", tmp_path / "a file" / "page.html")
    assert result.exit_code == 2
    assert "page.html: cannot be written" in result.output


def test_the_folder_has_the_payload_of_the_newest_round(folder: RunFolder) -> None:
    for number in (2, 3):
        folder.add_round(replace(report(number), payload=(number, bytes(number))))
    assert (folder.path / "payload.bin").read_bytes() == bytes(3)
    results = read_results(folder.path)
    assert results["payload"] == {"round": 3, "client": 3, "bytes": 3}
    names = sorted(path.name for path in folder.path.iterdir())
    assert names == ["payload.bin", "results.json", "resume.toml", "rounds.jsonl"]


# -- in a browser ------------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def chromium(tmp_path: Path, page: Path, *options: str) -> str:
    """What headless Chromium prints of a page."""
    assert CHROMIUM
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars",
        "--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}",
        *options, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_it_without_scrolling_sideways(real: Path, tmp_path: Path) -> None:
    write_report(read_run(real), tmp_path / "page.html")
    frames = "".join(f'<iframe src="page.html" style="width:{width}px;height:900px"></iframe>' for width in (360, 1280))
    measure = """<script>onload = () => { document.title = [...document.querySelectorAll("iframe")].map(frame => {
        const root = frame.contentDocument.documentElement, svg = frame.contentDocument.querySelector("svg");
        return [root.scrollWidth <= root.clientWidth, svg.getBoundingClientRect().width > 200,
                frame.contentDocument.title.length > 0].join() }).join() }</script>"""
    (tmp_path / "frames.html").write_text(f"<title></title>{frames}{measure}")
    shown = chromium(tmp_path, tmp_path / "frames.html", "--allow-file-access-from-files", "--dump-dom")
    assert re.search("<title>(.*?)</title>", shown)[1] == ",".join(["true"] * 6)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_it_in_light_and_dark(real: Path, tmp_path: Path, scheme: str) -> None:
    write_report(read_run(real), tmp_path / "page.html")
    number = {"dark": 0, "light": 1}[scheme]
    shot = tmp_path / "shot.png"
    chromium(
        tmp_path, tmp_path / "page.html", "--window-size=1000,1600", f"--screenshot={shot}",
        f"--blink-settings=preferredColorScheme={number}",
    )  # fmt: skip
    with Image.open(shot) as image:
        grey = np.asarray(image.convert("L")).astype(float)
    assert (grey[0, 0] < 64) == (scheme == "dark")
    assert grey.std() > 10, "more than a blank page"


def test_parsed_results_are_the_folders(folder: RunFolder) -> None:
    assert parse_run(folder.path, json.loads(json.dumps(folder.results))) == read_run(folder.path)
