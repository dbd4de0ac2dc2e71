"""A new aggregation rule is one class and one line in `RULES`: here theta moves halfway to the mean of the masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import Field

from common.aggregation import RULES, Rule
from common.config.section import Section, Sections
from common.saved import Saved
from common.theta import ONE, quantise
from tests.e2e.in_process import run_in_process
from tests.seams.test_toy_codec import CONFIG, NODES


class HalfwaySection(Section):
    title: ClassVar[str] = "Aggregation `halfway`"
    under: ClassVar[str] = "aggregation"

    pull: float = Field(0.5, gt=0, le=1, description="Share of the way.")


class Sum(NamedTuple):
    theta: NDArray[np.uint16]
    ones: NDArray[np.int64]
    weight: int


@dataclass(frozen=True)
class Halfway(Rule[Sum]):
    """Weighted by examples, without a memory."""

    name: ClassVar[str] = "halfway"
    number: ClassVar[int] = 200
    observes: ClassVar[Literal["mask", "change"]] = "mask"
    weighs = True
    section: ClassVar[type[Section]] = HalfwaySection
    pull: float = 0.5

    @classmethod
    def from_config(cls, run: Sections) -> Self:
        return cls(run[HalfwaySection].pull)

    def start(self, theta: NDArray[np.uint16], previous: Sum | None, server_round: int) -> Sum:
        return Sum(theta, np.zeros(len(theta), np.int64), 0)

    def fold(self, state: Sum, observed: NDArray[Any], weight: int = 1) -> Sum:
        return Sum(state.theta, state.ones + weight * observed, state.weight + weight)

    def finish(self, state: Sum) -> tuple[NDArray[np.uint16], Sum]:
        before = state.theta / ONE
        return quantise(before + self.pull * (state.ones / state.weight - before)), state

    def state(self, state: Sum) -> Saved:
        return Saved()

    def load_state(self, saved: Saved) -> Sum:
        return Sum(np.zeros(0, np.uint16), np.zeros(0, np.int64), 0)

    def pack_start(self, state: Sum, theta: NDArray[np.uint16]) -> bytes | None:
        return np.float64(self.pull).tobytes()

    @classmethod
    def read_start(cls, data: bytes, theta: NDArray[np.uint16], clients: int) -> tuple[Self, Sum]:
        rule = cls(float(np.frombuffer(data, np.float64)[0]))
        return rule, rule.start(theta, None, 1)


def test_a_toy_rule_aggregates_and_is_relayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, Halfway.name, Halfway)
    config = CONFIG | {"aggregation": "halfway", "pull": 0.25, "num-server-rounds": 3, "codec": "exact"}
    digests = {}
    for downlink in ("exact", "quantised", "relay"):
        results = run_in_process(tmp_path / downlink, config | {"downlink": downlink}, NODES)
        assert results["status"] == "completed"
        assert all(entry["clients"]["ok"] == 2 for entry in results["rounds"])
        digests[downlink] = [entry["digest"] for entry in results["rounds"]]
    assert digests["exact"] == digests["quantised"] == digests["relay"]
    assert len(set(digests["exact"])) == 3
