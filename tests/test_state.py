"""State is a value: a run that is stopped after a round, written down and taken up by a fresh server goes on as if it
had never stopped.
"""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from common.config.run import RunConfig
from common.data import open_split
from common.errors import RoundError
from common.models.backbone import build_parts, mask_parts
from common.saved import Saved
from deltamask_client.app import app as client_app
from deltamask_server.enrolment import Enrolment
from deltamask_server.methods import STRATEGIES
from deltamask_server.round_report import RoundReport
from deltamask_server.rounds import RoundStrategy
from deltamask_server.setting import Setting
from tests.grid import MemoryGrid, Node

CLIENTS, ROUNDS, STOP = 3, 4, 2
SHARED = {
    "train_limit": 60,
    "local_epochs": 1,
    "masked_blocks": 1,
    "num_server_rounds": ROUNDS,
    "min_clients": 1,
    "seed": 7,
}
SIGNS = {"method": "hidenseek", "backbone": "lenet", "masked_blocks": 0, "head": "random", "density": 0.2}
PAPER = {"score_optimiser": "adam", "aggregation": "beta", "calibration": 0.0, "vacant_distillation": 0.0}
RUNS: dict[str, dict[str, object]] = {
    "default": {"participation": 0.4},
    "exact, posterior remembered": PAPER | {"codec": "exact", "participation": 0.4},
    "relay, posterior remembered": PAPER | {"codec": "exact", "participation": 0.4, "downlink": "relay"},
    "quantised": {"codec": "bitmap", "downlink": "quantised"},
    "relative, relayed": {"codec": "relative", "downlink": "relay"},
    "head trained": {"codec": "fuse8", "head_finetune_rounds": 3},
    "fedavg": {"method": "fedavg"},
    "private": {"method": "private", "head": "mean", "validation_fraction": 0.0, "screen_heads": False},
    "lotteryfl": {"method": "lotteryfl", "lottery_accuracy": 0.1, "density": 0.4},
    "signs": SIGNS | {"prune_passes": 3, "sign_momentum": 0.5, "sign_turn_share": 0.2},
    "scores": SIGNS | {"prune_passes": 3, "upload": "scores"},
    "signs, local only": SIGNS | {"prune_passes": 3, "local_only": True},
}


@dataclass
class Federation:
    """Real clients in memory, with their disks, and servers one after the other."""

    run: RunConfig
    folder: Path

    def __post_init__(self) -> None:
        keys = self.run.backbone
        network = build_parts(keys.backbone, keys.weights, keys.image_size, keys.masked_blocks)
        self.classes = open_split("digits", "test", network.spec.size, self.folder).classes
        self.kept = STRATEGIES[self.run.method.name].prune(network, self.run, len(self.classes))
        self.backbone = mask_parts(keys.backbone, network)
        self.grid = MemoryGrid({100 + client: self.client(client) for client in range(CLIENTS)})
        self.reports: list[RoundReport] = []

    def client(self, number: int) -> Node:
        config = {"partition-id": number, "num-partitions": CLIENTS, "cache-dir": str(self.folder), "noise-seed": 1}
        config["account-dir"] = str(self.folder / "account")
        return lambda message: [client_app(message, Context(1, 1, dict(config), RecordDict(), self.run.as_dict()))]

    def server(self) -> RoundStrategy:
        """A fresh one, which knows config and backbone and nothing else."""
        enrolment = Enrolment(self.backbone.digest, self.backbone.masks.d, 1, 5.0, lambda line: None, self.classes)
        setting = Setting(self.run, self.backbone, self.classes, enrolment, self.kept)
        return STRATEGIES[self.run.method.name].from_setting(setting)

    def play(self, strategy: RoundStrategy, stop: int = ROUNDS) -> None:
        """All rounds, or those until something ends the run."""

        def ended(report: RoundReport) -> None:
            self.reports.append(report)
            if report.server_round == stop < ROUNDS:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            strategy.start(self.grid, strategy.arrays(), ROUNDS, 30.0, on_round=ended)


def written_and_read(saved: Saved) -> Saved:
    """As whoever keeps it would: arrays as bytes without pickle, values as JSON."""
    file = io.BytesIO()
    np.savez(file, **saved.arrays)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return Saved({name: arrays[name] for name in arrays}, json.loads(json.dumps(saved.values)))


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_as_if_it_had_never_stopped(name: str, tmp_path: Path) -> None:
    head = {} if "head" in RUNS[name] else {"head": "linear-probe", "head_epochs": 10}
    run = RunConfig(**(SHARED | head | RUNS[name]))
    whole, stopped = Federation(run, tmp_path / "whole"), Federation(run, tmp_path / "stopped")
    server = whole.server()
    server.fit_head(whole.grid, 30.0)
    server.validate_head(whole.grid, 30.0)
    whole.play(server)

    first = stopped.server()
    first.fit_head(stopped.grid, 30.0)
    first.validate_head(stopped.grid, 30.0)
    stopped.play(first, STOP)
    second = stopped.server()
    second.load_state(written_and_read(first.state()))
    assert (second.server_round, second.digest) == (STOP, first.digest)
    stopped.play(second)

    assert [report.server_round for report in stopped.reports] == [1, 2, 3, 4]
    for ours, theirs in zip(stopped.reports, whole.reports, strict=True):
        assert ours.digest == theirs.digest, f"round {ours.server_round}"
        assert ours.downlink_bytes == theirs.downlink_bytes, f"round {ours.server_round}"
        assert not ours.tally.failures
    assert second.head.to_bytes() == server.head.to_bytes()
    ours, theirs = second.state(), server.state()
    assert json.dumps(ours.values) == json.dumps(theirs.values)
    assert ours.arrays.keys() == theirs.arrays.keys()
    assert all(np.array_equal(array, theirs.arrays[name]) for name, array in ours.arrays.items())
    held_out = run.data.validation_fraction > 0
    assert (theirs.values["kept/best"] is not None) == held_out, (
        "where there are images held out, the best model is kept"
    )


@pytest.mark.parametrize("name", ["relay, posterior remembered", "head trained"])
def test_clients_that_lost_their_disks_meanwhile_change_nothing_but_bytes(name: str, tmp_path: Path) -> None:
    run = RunConfig(**(SHARED | {"head": "linear-probe", "head_epochs": 10} | RUNS[name]))
    before = Federation(run, tmp_path / "before")
    server = before.server()
    server.fit_head(before.grid, 30.0)
    before.play(server, STOP)
    state = written_and_read(server.state())
    before.play(server, ROUNDS)

    after = Federation(run, tmp_path / "after")
    second = after.server()
    second.load_state(state)
    after.play(second, ROUNDS)
    assert [report.digest for report in after.reports] == [report.digest for report in before.reports[STOP:]]
    assert not any(report.tally.failures for report in after.reports)
    assert sum(after.reports[0].downlink_bytes.values()) > sum(before.reports[STOP].downlink_bytes.values())
    assert second.head.to_bytes() == server.head.to_bytes()


def test_a_state_of_something_else_is_refused(tmp_path: Path) -> None:
    masks = Federation(RunConfig(**SHARED), tmp_path).server()
    weights = Federation(RunConfig(**SHARED, method="fedavg"), tmp_path).server()
    with pytest.raises(RoundError, match="method fedavg"):
        masks.load_state(weights.state())
    other, shorter = masks.state(), masks.state()
    other.values["deltamask/rule"] = "another"
    with pytest.raises(RoundError, match="by the rule another"):
        masks.load_state(other)
    shorter.arrays["deltamask/theta"] = shorter.arrays["deltamask/theta"][:-1]
    with pytest.raises(RoundError, match="masked weights"):
        masks.load_state(shorter)
    saved = masks.state()
    saved.arrays["head/weight"] = saved.arrays["head/weight"][:-1]
    with pytest.raises(RoundError, match="with a head"):
        masks.load_state(saved)
