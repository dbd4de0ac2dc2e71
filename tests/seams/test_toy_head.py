"""A new kind of head is one class and one line in `HEADS`: here a head that knows how frequent the classes are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from common.errors import BadMetric
from common.models.heads import HEADS, FittedHead, Head, Statistics
from tests.e2e.in_process import run_in_process
from tests.seams.test_toy_codec import CONFIG, NODES


class Frequencies(FittedHead):
    """Log of each class's share, whatever the image."""

    name: ClassVar[str] = "frequencies"
    title: ClassVar[str] = "frequency head"

    def max_bytes(self, classes: int, features: int) -> int:
        return 4 * classes

    def statistics(self, features: torch.Tensor, labels: torch.Tensor, classes: int) -> bytes:
        return np.bincount(labels.numpy(), minlength=classes).astype("<u4").tobytes()

    def check(self, data: bytes, classes: int, features: int, examples: int) -> None:
        if len(data) != 4 * classes or np.frombuffer(data, "<u4").sum() != examples:
            raise BadMetric("counts that are none")

    def combine(self, replies: Sequence[Statistics], classes: int, features: int) -> Head:
        counts = sum(np.frombuffer(data, "<u4").astype(np.int64) for data, _, _ in replies)
        bias = np.log((counts + 1) / (np.sum(counts) + classes)).astype(np.float32)
        return Head(np.zeros((classes, features), np.float32), bias)


def test_a_toy_head_is_fitted_from_what_all_clients_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEADS, Frequencies.name, Frequencies)
    results = run_in_process(tmp_path, CONFIG | {"head": "frequencies", "num-server-rounds": 1}, NODES)
    assert results["status"] == "completed"
    assert results["linear_probe"]["accuracy"] == pytest.approx(0.1), "one answer for ten classes"
    assert set(results["linear_probe"]["uplink"]["payload_bytes"].values()) == {40}
