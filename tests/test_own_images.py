"""A whole federation in this process in which every site has a folder of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.config.node import parse_node_config
from common.config.run import RunConfig
from common.errors import DataError
from deltamask_client.images import check_source, site_images
from tests.e2e.in_process import run_in_process
from tests.images import write_folder

RUN: dict[str, Any] = {
    "num-server-rounds": 2,
    "masked-blocks": 1,
    "local-epochs": 1,
    "batch-size": 8,
    "min-clients": 2,
    "node-wait-seconds": 1.0,
    "validation-fraction": 0.25,
}
CLASSES = ("apple", "fern", "sea")


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    write_folder(tmp_path / "server", dict.fromkeys(CLASSES, 4), seed=1)
    write_folder(tmp_path / "harbour", {"apple": 8, "sea": 8}, seed=2)  # no fern
    write_folder(tmp_path / "forest", {"apple": 4, "fern": 12}, seed=3)
    (tmp_path / "forest" / "fern" / "cut.jpg").write_bytes(
        next((tmp_path / "forest" / "fern").glob("*.jpg")).read_bytes()[:200]
    )
    (tmp_path / "forest" / "fern" / "phone.heic").write_bytes(b"\0\0\0\x14ftypheic\0\0\0\0heic")
    fern = tmp_path / "forest" / "fern"
    (fern / "3-010.png").write_bytes((fern / "3-004.png").read_bytes())
    write_folder(tmp_path / "kiosk", {"apple": 4, "newspaper": 4}, seed=4)
    return tmp_path


def nodes(sites: Path, *names: str) -> list[dict[str, str | int]]:
    return [
        {"partition-id": number, "num-partitions": len(names), "data": f"folder:{sites / name}"}
        for number, name in enumerate(names)
    ]


def test_three_sites_with_folders_of_their_own(
    sites: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = RUN | {"dataset": f"folder:{sites / 'server'}"}
    results = run_in_process(sites, run, nodes(sites, "harbour", "forest", "kiosk"))
    assert results["status"] == "completed"
    assert results["data"] == {
        "classes": list(CLASSES),
        "test_images": 12,
        "broken_test_images": 0,
        "files": {"used": 12},
    }
    assert results["sites"] == {"0": {"used": 16}, "1": {"used": 17, "used twice": 1, "HEIC": 1}}
    # The kiosk is refused before it takes part; what is wrong stays in its own log.
    printed = capsys.readouterr().out
    assert "node 102 refused: it answered with an error: DataError; see the log of this SuperNode" in printed
    assert "unknown class 'newspaper'. This run has those of the server's dataset: apple, fern, sea" in caplog.text
    assert "newspaper" not in printed
    for entry in results["rounds"]:
        assert entry["clients"] == {"asked": 2, "ok": 2, "failed": {}, "failed_clients": {}}
        assert entry["broken_images"] == {"1": 1}
        validation = entry["validation"]
        assert {name: site["examples"] for name, site in validation["clients"].items()} == {"0": 4, "1": 4}
        accuracies = [site["accuracy"] for site in validation["clients"].values()]
        assert validation["mean"] == pytest.approx(np.mean(accuracies))
        assert validation["worst_decile"] == min(accuracies)
        assert validation["failed"] == {}
    head, kept = results["linear_probe"]["validation"], results["kept"]
    assert {name: site["examples"] for name, site in head["clients"].items()} == {"0": 4, "1": 4}
    pooled = [head["pooled"], *(entry["validation"]["pooled"] for entry in results["rounds"])]
    assert (kept["held_out_head"], kept["held_out_last"]) == (pooled[0], pooled[-1])
    assert kept["held_out_accuracy"] == max(pooled) == pooled[kept["round"]]
    tested = [results["linear_probe"]["classes"], *(entry["classes"] for entry in results["rounds"])]
    assert kept["classes"]["recall"] == tested[kept["round"]]["recall"]
    assert np.sum(kept["classes"]["confusion"], axis=1).tolist() == [4, 4, 4]
    assert "1 of 17 images cannot be read and are left out: fern/cut.jpg" in caplog.text
    assert "Clients     accuracy on their held-out images: mean" in printed
    assert "Data        1 images of 1 clients could not be read" in printed
    assert "Data        33 files of 2 clients are images; passed over: 1 HEIC; 1 used twice; their logs" in printed
    assert "17 images used; passed over: 1 HEIC (fern/phone.heic); 1 are copies of another one (fern/" in caplog.text
    assert "phone.heic" not in printed
    assert "phone.heic" not in (sites / "runs" / "latest" / "results.json").read_text()
    lines = [json.loads(line) for line in (sites / "runs" / "latest" / "rounds.jsonl").read_text().splitlines()]
    said = [line["earlier"]["validation"] for line in lines]
    assert said == [head, *(entry["validation"] for entry in results["rounds"][:-1])], "by those who trained next"
    assert lines[-1]["validation"] == results["rounds"][-1]["validation"]


def test_what_is_held_out_is_not_trained_on_and_stays_the_same(sites: Path) -> None:
    node = parse_node_config(nodes(sites, "harbour")[0] | {"cache-dir": str(sites / "cache")})
    run = RunConfig(validation_fraction=0.25)
    local = site_images(run, node, CLASSES, 28)
    (trained, labels), (held, held_labels) = local.training, local.validation
    assert (len(trained), len(held)) == (12, 4)
    assert sorted(held_labels) == [0, 0, 2, 2]
    assert sorted(labels) == [0] * 6 + [2] * 6
    assert not {image.tobytes() for image in held} & {image.tobytes() for image in trained}
    site_images.cache_clear()
    assert np.array_equal(site_images(run, node, CLASSES, 28).validation[0], held)
    other = site_images(run.replace(seed=2), node, CLASSES, 28)
    assert not np.array_equal(other.validation[0], held)
    everything = site_images(RunConfig(validation_fraction=0.0), node, CLASSES, 28)
    assert len(everything.training[0]) == 16
    assert len(everything.validation[0]) == 0


def test_data_of_a_node_is_its_part_whole_and_the_rest_is_divided(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", x_train=np.zeros((7, 8, 8), np.uint8), y_train=np.arange(7))
    digits = tuple("0123456789")

    def count(**node: str | int) -> int:
        config = parse_node_config({"partition-id": 0, "num-partitions": 3, "cache-dir": str(tmp_path), **node})
        return len(site_images(RunConfig(train_limit=30, validation_fraction=0.0), config, digits, 28).training[0])

    assert count() == 10
    assert count(data=f"npz:{tmp_path}/own.npz") == 7
    assert count(data="digits") == 30


def test_a_client_without_images_of_its_own_cannot_share_a_flat_folder(sites: Path) -> None:
    run = RunConfig(dataset=f"folder:{sites / 'server'}")
    node = parse_node_config({"partition-id": 0, "num-partitions": 2})
    with pytest.raises(DataError, match="data='folder:"):
        check_source(run, node, CLASSES)


def test_a_site_of_which_nothing_can_be_read_says_so(sites: Path) -> None:
    (sites / "bad" / "sea").mkdir(parents=True)
    (sites / "bad" / "sea" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing")
    node = parse_node_config(nodes(sites, "bad")[0] | {"cache-dir": str(sites / "cache")})
    check_source(RunConfig(), node, CLASSES)
    with pytest.raises(DataError, match="none of 1 images can be read"):
        site_images(RunConfig(), node, CLASSES, 28)


def test_a_server_whose_test_images_are_all_broken_says_so(sites: Path) -> None:
    (sites / "bad" / "sea").mkdir(parents=True)
    (sites / "bad" / "sea" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing")
    with pytest.raises(DataError, match="none of its 1 test images can be read"):
        run_in_process(sites, RUN | {"dataset": f"folder:{sites / 'bad'}"}, nodes(sites, "harbour"))
