"""Every method, codec and downlink gives the thetas that it gave when tests/golden/runs.json was written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.golden_runs import GOLDEN, RUNS, in_portable_process


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return in_portable_process(list(RUNS))


@pytest.mark.parametrize("name", RUNS)
def test_every_round_has_its_digest(name: str, found: dict[str, Any]) -> None:
    kept = json.loads(GOLDEN.read_text())
    if found["fingerprint"] != kept["fingerprint"]:
        pytest.skip("this processor rounds otherwise than the one that the digests are from")
    assert found["runs"][name] == kept["runs"][name]


def test_every_golden_run_is_compared() -> None:
    assert set(json.loads(GOLDEN.read_text())["runs"]) == set(RUNS)
