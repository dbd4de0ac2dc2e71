"""A new codec is one class and one line in `CODECS`: here the flips as plain numbers of positions."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from common.codecs import CODECS, SharedState
from common.codecs.base import DeltaCodec
from common.errors import TruncatedPayload, WrongModel
from tests.e2e.in_process import run_in_process

NODES = [{"partition-id": number, "num-partitions": 2} for number in range(2)]
CONFIG = {"train-limit": 60, "test-limit": 30, "local-epochs": 1, "masked-blocks": 1}


class Positions(DeltaCodec):
    """Four bytes a flip."""

    name: ClassVar[str] = "positions"
    number: ClassVar[int] = 200

    def encode_positions(self, positions: NDArray[np.int64], shared: SharedState) -> bytes:
        return positions.astype("<u4").tobytes()

    def decode_flips(self, n: int, body: bytes, shared: SharedState) -> NDArray[np.bool_]:
        if len(body) != 4 * n:
            raise TruncatedPayload(f"{len(body)} bytes for {n} positions")
        positions, flips = np.frombuffer(body, "<u4"), np.zeros(shared.d, np.bool_)
        if n and positions.max() >= shared.d:
            raise WrongModel(f"position {positions.max()} of {shared.d}")
        flips[positions] = True
        return flips


def test_a_toy_codec_runs_like_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, Positions.name, Positions)
    paper = {"score-optimiser": "adam", "aggregation": "beta", "kappa": 0.7, "kappa-final": 0.4}
    config = CONFIG | paper | {"num-server-rounds": 2}
    runs = [run_in_process(tmp_path / codec, config | {"codec": codec}, NODES) for codec in ("positions", "exact")]
    toy, exact = ([entry["digest"] for entry in run["rounds"]] for run in runs)
    assert toy == exact, "both are lossless, so theta is the same"
    assert runs[0]["rounds"][0]["uplink"]["bpp"] > 2 * runs[1]["rounds"][0]["uplink"]["bpp"]
