"""A new method is one class and one line a floor: here clients send how many images they have, in four bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from numpy.typing import NDArray
from pydantic import Field

from common.config.section import Section
from common.digest import digest8
from common.errors import BadMetric
from common.messages import Part, Parts, Update, unpack_model
from common.methods import METHODS, Method
from common.models.accuracy import Scored, score_images
from common.models.heads import Head
from common.saved import Saved
from common.wire import Header
from deltamask_client.answer import Answer
from deltamask_client.epochs import Fit
from deltamask_client.methods import CLIENTS, ClientMethod
from deltamask_server.evaluation import Evaluator
from deltamask_server.methods import STRATEGIES
from deltamask_server.rounds import RoundStrategy
from deltamask_server.setting import Setting
from tests.e2e.in_process import run_in_process
from tests.seams.test_toy_codec import CONFIG, NODES


class CountingSection(Section):
    title: ClassVar[str] = "Counting"
    under: ClassVar[str] = "method"

    step: int = Field(1, ge=1, description="What an image counts.")


class Counting(Method):
    """What both sides and the tools know of it."""

    name, number, title, summary = "counting", 200, "Counting", "how many images there are"
    sections: ClassVar[tuple[type[Section], ...]] = (CountingSection,)
    forms: ClassVar[Mapping[str, str]] = {"mean": "frozen network"}

    def coding(self, config: Mapping[str, Any]) -> str:
        return "four bytes up"

    def plain_fields(self, header: Header) -> dict[str, str]:
        return {"images": str(header.n)}

    def plain_values(self, payload: bytes, header: Header) -> NDArray[np.float32]:
        return np.zeros(0, np.float32)


class CountingServer(RoundStrategy):
    name, total = "counting", 0

    @classmethod
    def from_setting(cls, setting: Setting) -> Self:
        return cls(setting.enrolment, **setting.options)

    @property
    def digest(self) -> bytes:
        return digest8(self.total.to_bytes(8, "little"))

    def parts(self, held: bytes | None) -> dict[str, bytes]:
        return {"total": self.total.to_bytes(8, "little"), **self.head_part(held)}

    def expected(self, server_round: int) -> Parts:
        return {"payload": Part(4)}

    def begin_round(self, server_round: int) -> None:
        self.counted = 0

    def accept(self, update: Update, server_round: int, slot: int) -> None:
        if len(update.parts["payload"]) != 4:
            raise BadMetric("a count of other than four bytes")
        self.counted += int.from_bytes(update.parts["payload"], "little")

    def end_round(self, server_round: int) -> None:
        self.total += self.counted

    def evaluate(self, evaluator: Evaluator, server_round: int) -> dict[str, Scored]:
        return {"mean": evaluator.frozen(self.head)}

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"total": torch.tensor([self.total])}

    def method_state(self) -> Saved:
        return Saved(values={"total": self.total})

    def load_method_state(self, saved: Saved) -> None:
        self.total = int(saved.values["total"])


class CountingClient(ClientMethod):
    name = "counting"

    def holds(self) -> bytes | None:
        return None

    def train(self, message: RecordDict) -> Answer:
        site = self.site(message, ())
        size = Head.size(len(site.classes), site.backbone.features)
        unpack_model(message, {"total": Part(8), "head": Part(size)})
        count = len(site.labels) * self.run[CountingSection].step
        return Answer(site, Fit(0.0, 0.0), {"payload": count.to_bytes(4, "little")})

    def evaluate(self, message: RecordDict, server_round: int) -> Answer:
        site = self.site(message, (), validation=True)
        shape = len(site.classes), site.backbone.features
        parts = unpack_model(message, {"total": Part(8), "head": Part(Head.size(*shape))})
        site.backbone.masks.unmask()
        head = Head.from_bytes(parts["head"], *shape)
        return Answer.of(site, score_images(site.backbone.tail, head, site.activations, site.labels, 250))


def test_a_toy_method_runs_in_the_rounds_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "counting", Counting())
    monkeypatch.setitem(STRATEGIES, "counting", CountingServer)
    monkeypatch.setitem(CLIENTS, "counting", CountingClient)
    config = CONFIG | {"method": "counting", "step": 2, "num-server-rounds": 2}
    results = run_in_process(tmp_path, config, NODES)
    assert results["status"] == "completed"
    for number, entry in enumerate(results["rounds"], start=1):
        assert entry["digest"] == digest8((number * 2 * 54).to_bytes(8, "little")).hex(), "a tenth is held out"
        assert entry["uplink"]["payload_bytes"] == {"0": 4, "1": 4}
        assert not entry["validation"]["failed"]
    assert results["kept"]["round"] == 0, "it learns nothing, so the head alone is as good"
    assert (tmp_path / "runs" / "latest" / "report.html").is_file(), "the report knows the method by what it says"
