"""Benchmarks keep step with the code that they measure; what they measure is not judged here."""

from __future__ import annotations

import importlib

import pytest

from benchmarks.downlinks import FORMS, downlink_figures
from benchmarks.memory import memory_figures
from common.config.run import parse_run_config


@pytest.mark.parametrize("name", ["codecs", "hidenseek", "methods"])
def test_every_run_of_an_experiment_has_a_config_that_is_one(name: str) -> None:
    pytest.importorskip("matplotlib", reason="the plots of the experiments need it")
    plans = list(importlib.import_module(f"benchmarks.experiments.{name}").plans())
    assert len({plan.name for plan in plans}) == len(plans) > 20
    for plan in plans:
        parse_run_config(plan.config)


def test_downlinks_are_measured_and_lose_nothing() -> None:
    figures = downlink_figures(3_000)
    assert all(list(by_form) == list(FORMS) for by_form in figures.values())
    assert all(len(rounds) == 4 for by_form in figures.values() for rounds in by_form.values())


def test_memory_is_measured() -> None:
    (figures,) = memory_figures(20_000, ["exact"]).values()
    assert set(figures) == {"encode, MiB", "decode, MiB"}
