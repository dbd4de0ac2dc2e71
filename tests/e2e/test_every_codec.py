"""Every codec, and the reference method, through a simulation and a deployment over gRPC: the same bytes.

One SuperLink of each kind serves all of them, one run after another. In `make test` the default codec goes this way in
test_deployment.py, and three others in test_mixed_codecs.py; these here take minutes.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.flower import Flower
from tests.e2e.in_process import as_text

pytestmark = pytest.mark.slow

NODES = 2
CONFIG = {
    "train-limit": 120,
    "test-limit": 50,
    "local-epochs": 1,
    "num-server-rounds": 2,
    "min-clients": NODES,
    "seed": 7,
}
PAPER = {"score-optimiser": "adam", "calibration": 0.0, "aggregation": "beta", "kappa": 0.8, "kappa-final": 0.4}
RUNS: dict[str, dict[str, str | float | bool]] = {
    "paper": PAPER | {"codec": "fuse8", "fuse-candidates": False},
    "fuse8": {"codec": "fuse8"},
    "fuse16": {"codec": "fuse16"},
    "fuse32": {"codec": "fuse32"},
    "exact": {"codec": "exact"},
    "relative": {"codec": "relative"},
    "exact-relayed": {"codec": "exact", "downlink": "relay"},
    "relative-relayed": {"codec": "relative", "downlink": "relay"},
    "bitmap": {"codec": "bitmap"},
    "bloom": {"codec": "bloom"},
    "bits": {"codec": "bits"},
    "fedavg": {"method": "fedavg"},
    "hidenseek": {
        "method": "hidenseek",
        "backbone": "lenet",
        "masked-blocks": 0,
        "head": "random",
        "density": 0.2,
    },
}
CODING = {"fedavg": "float32 both ways", "hidenseek": "signs as bits or by exact"}


@pytest.fixture(scope="module")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    with Flower(tmp_path_factory.mktemp("simulation"), simulated=NODES) as flower:
        yield flower


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    with Flower(tmp_path_factory.mktemp("deployment")) as flower:
        for number in range(NODES):
            flower.supernode(number, of=NODES)
        yield flower


@pytest.mark.parametrize("name", RUNS)
def test_deployment_equals_simulation(name: str, simulation: Flower, deployment: Flower) -> None:
    config = as_text(CONFIG | RUNS[name])
    results = []
    for flower in (simulation, deployment):
        result, log = flower.run(config, timeout=900)
        assert result["status"] == "completed", log + flower.logs()
        coding = f"codec {RUNS[name]['codec']}," if "codec" in RUNS[name] else CODING[str(RUNS[name]["method"])]
        assert coding in log
        results.append(result)
    simulated, deployed = results
    assert len(deployed["rounds"]) == len(simulated["rounds"]) == 2
    for ours, theirs in zip(deployed["rounds"], simulated["rounds"], strict=True):
        assert ours["clients"] == {"asked": NODES, "ok": NODES, "failed": {}, "failed_clients": {}}
        for key in ("digest", "uplink", "downlink", "accuracy"):
            assert ours[key] == theirs[key], f"{key} in round {ours['round']}"
    first, second = (entry["digest"] for entry in deployed["rounds"])
    assert first != second
