"""Clients of one run that use different codecs, by their node config: over gRPC the same bytes as in one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.flower import Flower
from tests.e2e.in_process import as_text, run_in_process

CONFIG = {
    "train-limit": 180,
    "test-limit": 100,
    "local-epochs": 1,
    "num-server-rounds": 1,
    "min-clients": 3,
    "seed": 7,
}
BUDGET = 0.0008
CODECS = ({"codec": "relative", "target-bpp": BUDGET}, {"codec": "exact"}, {"codec": "bloom"})


@pytest.mark.slow
def test_each_client_has_its_codec_and_theta_is_what_one_process_computes(tmp_path: Path) -> None:
    nodes = [{"partition-id": number, "num-partitions": 3, **codec} for number, codec in enumerate(CODECS)]
    expected = run_in_process(tmp_path / "in-process", CONFIG, nodes)
    with Flower(tmp_path / "deployment") as flower:
        for number, codec in enumerate(CODECS):
            flower.supernode(number, of=3, more=as_text(codec))
        deployed, log = flower.run(as_text(CONFIG), timeout=600)
        assert deployed["status"] == "completed", log + flower.logs()

    assert len(deployed["rounds"]) == len(expected["rounds"]) == 1
    for ours, theirs in zip(deployed["rounds"], expected["rounds"], strict=True):
        assert ours["clients"] == {"asked": 3, "ok": 3, "failed": {}, "failed_clients": {}}
        assert ours["digest"] == theirs["digest"]
        assert ours["uplink"]["payload_bytes"] == theirs["uplink"]["payload_bytes"]
        assert ours["downlink"] == theirs["downlink"]
        assert ours["accuracy"] == theirs["accuracy"]
        # Three codecs of equal steps have three sizes: they cannot have been confused.
        relative, exact, bloom = (ours["uplink"]["payload_bytes"][str(client)] for client in range(3))
        assert 8 * relative <= BUDGET * deployed["model"]["masked_parameters"]
        assert len({relative, exact, bloom}) == 3
