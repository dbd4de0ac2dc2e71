"""The fuzzer: a few hundred inputs of each target, and that it finds what is wrong."""

from __future__ import annotations

import functools
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.codecs import CODECS
from common.errors import PayloadError, WrongFormat
from common.models.heads import HEADS
from tests.attacks.targets import CODECS as attacked
from tests.fuzz import __main__ as command
from tests.fuzz import judge as judging
from tests.fuzz import memory
from tests.fuzz.case import Case, Target
from tests.fuzz.findings import Findings, read_finding
from tests.fuzz.judge import ACCEPTED, FINDING, judge
from tests.fuzz.mutations import KINDS, mutate
from tests.fuzz.run import Tally, fuzz
from tests.fuzz.targets import TARGETS

TIMES = 200
made = functools.cache(lambda name: TARGETS[name]())


def run(folder: Path, *targets: Target, seed: int = 1, times: int = TIMES) -> dict[str, Tally]:
    return fuzz(targets, seed, Findings(folder, seed), times=times)


@pytest.mark.parametrize("name", TARGETS)
def test_a_decoder_takes_what_is_honest_and_refuses_the_rest_as_it_says(name: str, tmp_path: Path) -> None:
    target = made(name)
    for given in target.honest:
        assert judge(target.cases[given.case], given.data).outcome == ACCEPTED
    tally = run(tmp_path, target)[name]
    assert tally.decodes == TIMES
    assert tally.findings == 0, [path.read_bytes()[:2_000] for path in tmp_path.iterdir()]
    assert tally.accepted >= len(target.honest)
    assert tally.refused.total() > 20
    assert not list(tmp_path.iterdir()), "nothing is left of a run that found nothing"


def test_every_codec_and_every_head_that_is_fitted_is_a_target() -> None:
    assert {kind for kind, _ in attacked.values()} == CODECS.keys()
    assert attacked.keys() <= TARGETS.keys()
    assert {f"statistics-{name}" for name, kind in HEADS.items() if kind.fitted} <= TARGETS.keys()


def test_a_seed_names_the_inputs(tmp_path: Path) -> None:
    names = ("bits", "theta-float32", "statistics-mean", "hello")
    first, again, other = (
        {
            name: (tally.accepted, tally.refused)
            for name, tally in run(tmp_path, *map(made, names), seed=seed, times=600).items()
        }
        for seed in (3, 3, 4)
    )
    assert first == again != other
    inputs = [made("exact").input(3, number) for number in range(100)]
    assert inputs == [made("exact").input(3, number) for number in range(100)]


def test_every_target_gets_its_share(tmp_path: Path) -> None:
    slow, fast = toy(lambda data: time.sleep(0.001), name="slow"), toy(lambda data: None)
    assert [tally.decodes for tally in run(tmp_path, slow, fast, times=101).values()] == [51, 50]
    tallies = fuzz([slow, fast], 1, Findings(tmp_path, 1), seconds=0.2)
    counts = [tally.decodes for tally in tallies.values()]
    assert max(counts) - min(counts) <= 25
    assert min(counts) > 0


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_a_mutation_takes_any_bytes(kind: int) -> None:
    rng = np.random.default_rng(kind)
    for data in (b"", b"x", bytes(range(256)), made("fuse8").honest[0].data, made("theta-quantised").honest[0].data):
        changed = [KINDS[kind](rng, data, [b"", data]) for _ in range(50)]
        assert all(isinstance(one, bytes) for one in changed)
        assert max(map(len, changed)) <= 2 * len(data) + 60_000
        assert len(data) < 100 or len(set(changed)) > 10
    assert len({mutate(rng, bytes(100)) for _ in range(200)}) > 100


# -- it must be able to fail -------------------------------------------------------------------------------------------


def toy(read, name: str = "toy", **about) -> Target:
    """A decoder of 100 zeros, which is given noise."""
    case = Case("it", (bytes(100),), lambda rng: mutate(rng, bytes(100)), read, **about)
    return Target(name, [case])


def wrong(error: BaseException):
    def read(data: bytes) -> None:
        if data[:50].strip(b"\0"):
            raise error
        if len(data) != 100:
            raise WrongFormat("another length")

    return read


class Panic(BaseException):
    """Compiled code raises such."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a wrong one"),
        AssertionError("not what it says"),
        MemoryError(),
        Panic("out of range"),
        PayloadError("without a reason"),
    ],
)
def test_another_error_is_a_finding_that_can_be_repeated(error: BaseException, tmp_path: Path) -> None:
    target = toy(wrong(error))
    tally = run(tmp_path, target, times=80)["toy"]
    assert tally.findings > 10
    assert tally.accepted > 0
    assert tally.refused["wrong-format"] > 0
    paths = list(tmp_path.iterdir())
    assert len(paths) == 10, "files that are alike are kept in a number"
    about = json.loads(paths[0].read_bytes().split(b"\n")[0])
    assert about["repeat"] == f"python -m tests.fuzz --repeat {paths[0]}"
    again, given = read_finding(paths[0], {"toy": lambda: target})
    assert again is target
    assert given == target.input(1, about["number"])
    assert judge(again.cases[given.case], given.data).outcome == FINDING


def test_an_error_that_a_decoder_does_not_document_is_a_finding(tmp_path: Path) -> None:
    hello = made("hello")
    strict = Target("hello", [replace(case, errors=(KeyError,)) for case in hello.cases])
    assert run(tmp_path, strict)["hello"].findings > 100


def test_a_slow_decoder_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "SLOWEST", 0.002)
    tally = run(tmp_path, toy(lambda data: time.sleep(0.004 * (len(data) > 100))), times=60)["toy"]
    assert 0 < tally.findings < 60
    busy = iter([0.01])  # once, for whatever reason
    verdict = judge(toy(lambda data: time.sleep(next(busy, 0))).cases[0], b"")
    assert verdict.outcome == ACCEPTED


@pytest.mark.skipif(not memory.MEASURED, reason="peaks of memory are measured with Linux's /proc")
def test_a_decoder_that_takes_too_much_memory_is_a_finding(tmp_path: Path) -> None:
    def read(data: bytes) -> None:
        np.ones(40 << 20 if len(data) > 100 else 1 << 10, np.uint8)

    tally = run(tmp_path, toy(read, memory=16 << 20), times=60)["toy"]
    assert 0 < tally.findings < 60
    assert 39 << 20 <= tally.peak < 80 << 20
    assert run(tmp_path, toy(read, memory=64 << 20), times=60)["toy"].findings == 0


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*args: object) -> int:
        monkeypatch.setattr(sys, "argv", ["fuzz", *map(str, args)])
        return command.main()

    monkeypatch.setattr(command, "TARGETS", {"head": lambda: made("head"), "toy": lambda: toy(wrong(ValueError("no")))})
    out, summary = tmp_path / "out", tmp_path / "summary.json"
    assert call("head", "--times", 200, "--out", out) == 0
    assert call("--times", 200, "--seed", 5, "--out", out, "--json", summary) == 1
    found = json.loads(summary.read_text())
    assert (found["seed"], found["times"], found["targets"]["head"]["times"]) == (5, 200, 100)
    assert found["findings"] == found["targets"]["toy"]["findings"] > 0
    (path, *_) = out.iterdir()
    assert call("--repeat", path) == 1
    assert "ValueError: no" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        call("nothing")


def test_what_ends_the_process_is_left_behind(tmp_path: Path) -> None:
    target, findings = made("bits"), Findings(tmp_path / "out", 7)
    findings.begin("hello", 5)
    findings.begin("bits", 123)
    (path,) = (tmp_path / "out").iterdir()
    assert read_finding(path, TARGETS)[1] == target.input(7, 123)
    findings.end()
    assert not list((tmp_path / "out").iterdir())
