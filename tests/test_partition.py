"""Divisions that are made once for all clients and kept: the same as those made for each client alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import DataError
from deltamask_client import partition
from deltamask_client.partition import partition_indices

LABELS = np.random.default_rng(3).integers(0, 10, 2_000)
WAYS = {
    "iid": {"partitioner": "iid"},
    "dirichlet": {"partitioner": "dirichlet", "dirichlet_alpha": 0.3},
    "pathological": {"partitioner": "pathological", "classes_per_client": 3},
}


def parts(way: str, cache: Path | None, clients: int = 7, seed: int = 5) -> list[np.ndarray]:
    return [partition_indices(LABELS, **WAYS[way], num_partitions=clients, partition_id=client, seed=seed, cache=cache)
            for client in range(clients)]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_the_kept_division_is_the_one_made_for_each_client_alone(way: str, tmp_path: Path) -> None:
    alone, kept = parts(way, None), parts(way, tmp_path)
    assert len(list((tmp_path / "partitions").glob("*.npy"))) == 1, "one file for all clients"
    for ours, theirs in zip(kept, alone, strict=True):
        assert ours.dtype == theirs.dtype == np.int64
        assert np.array_equal(ours, theirs)
    assert len(np.concatenate(kept)) == len(np.unique(np.concatenate(kept)))


def test_a_division_that_is_kept_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = parts("dirichlet", tmp_path)
    monkeypatch.setattr(partition, "_divide", lambda *_: pytest.fail("it was divided again"))
    assert all(np.array_equal(a, b) for a, b in zip(first, parts("dirichlet", tmp_path), strict=True))


def test_another_way_seed_or_labels_is_another_division(tmp_path: Path) -> None:
    parts("dirichlet", tmp_path), parts("dirichlet", tmp_path, seed=6), parts("dirichlet", tmp_path, clients=6)
    partition_indices(LABELS[::-1], **WAYS["dirichlet"], num_partitions=7, partition_id=0, seed=5, cache=tmp_path)
    assert len(list((tmp_path / "partitions").glob("*.npy"))) == 4


def test_a_damaged_or_unwritable_cache_costs_time_only(tmp_path: Path) -> None:
    expected = parts("iid", None)
    parts("iid", tmp_path)
    (file,) = (tmp_path / "partitions").glob("*.npy")
    file.write_bytes(b"damaged")
    assert all(np.array_equal(a, b) for a, b in zip(expected, parts("iid", tmp_path), strict=True))
    (tmp_path / "file").write_text("no folder")
    assert all(np.array_equal(a, b) for a, b in zip(expected, parts("iid", tmp_path / "file"), strict=True))


def test_more_clients_than_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be divided among 2001 clients"):
        parts("iid", tmp_path, clients=2_001)
