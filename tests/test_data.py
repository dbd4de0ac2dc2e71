from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.data import load_dataset, partition_indices
from common.errors import DataError

LABELS = np.arange(600) % 10


def test_digits_are_built_in() -> None:
    data = load_dataset("digits")
    assert (len(data.x_train), len(data.x_test), data.classes) == (1347, 450, 10)
    assert data.x_train.dtype == np.uint8
    assert data.x_train.max() == 255
    assert set(data.y_test) == set(range(10))


def test_limits_keep_classes_in_balance() -> None:
    data = load_dataset("digits", train_limit=103, test_limit=20)
    assert sorted(np.bincount(data.y_train)) == [10] * 7 + [11] * 3
    assert np.bincount(data.y_test).tolist() == [2] * 10


def test_npz_files(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    rng = np.random.default_rng(0)
    parts = {
        "x_train": rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8),
        "y_train": np.arange(20) % 4,
        "x_test": rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8),
        "y_test": np.arange(5) % 4,
    }
    np.savez(path, **parts)
    data = load_dataset(f"npz:{path}")
    assert data.classes == 4
    assert np.array_equal(data.x_test, parts["x_test"])

    wrong = {
        "has no y_test": {key: value for key, value in parts.items() if key != "y_test"},
        "uint8": parts | {"x_train": parts["x_train"].astype(np.float32)},
        "20 integers": parts | {"y_train": parts["y_train"][:-1]},
        "cannot be read": parts | {"y_train": np.array([object()] * 20)},
        "no training or no test": parts | {"x_test": parts["x_test"][:0], "y_test": parts["y_test"][:0]},
    }
    for message, content in wrong.items():
        np.savez(path, **content)
        with pytest.raises(DataError, match=message):
            load_dataset(f"npz:{path}")
    path.write_bytes(b"not a zip file")
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset(f"npz:{path}")


def test_unknown_sources_name_the_choices(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="npz:PATH"):
        load_dataset("imagenet")
    with pytest.raises(DataError, match="no file at"):
        load_dataset(f"npz:{tmp_path}/none.npz")


@pytest.mark.parametrize("partitioner", ["iid", "dirichlet", "pathological"])
def test_partitions_are_disjoint_complete_and_repeatable(partitioner: str) -> None:
    parts = [partition_indices(LABELS, partitioner, 6, i, seed=3) for i in range(6)]
    union = np.concatenate(parts)
    assert len(set(union)) == len(union)
    # Six clients of two classes each may leave a class to nobody; the other two divide everything.
    assert len(union) == 600 or partitioner == "pathological"
    again = [partition_indices(LABELS, partitioner, 6, i, seed=3) for i in range(6)]
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    other = partition_indices(LABELS, partitioner, 6, 0, seed=4)
    assert not np.array_equal(parts[0], other)


def test_partitioners_skew_as_they_say() -> None:
    def classes(partitioner: str, **options: float) -> list[int]:
        return [len(set(LABELS[partition_indices(LABELS, partitioner, 5, i, seed=1, **options)])) for i in range(5)]

    assert classes("iid") == [10] * 5
    assert classes("pathological", classes_per_client=2) == [2] * 5

    def largest_share(alpha: float) -> float:
        parts = [LABELS[partition_indices(LABELS, "dirichlet", 5, i, seed=1, dirichlet_alpha=alpha)] for i in range(5)]
        return float(np.mean([np.bincount(part, minlength=10).max() / len(part) for part in parts]))

    assert largest_share(0.1) > 2 * largest_share(100.0)


def test_impossible_divisions_are_errors() -> None:
    with pytest.raises(DataError, match="among 700 clients"):
        partition_indices(LABELS, "iid", 700, 0, seed=1)
    with pytest.raises(DataError, match="pathological"):
        partition_indices(LABELS, "pathological", 3, 0, seed=1, classes_per_client=11)
    with pytest.raises(DataError, match="use iid"):
        partition_indices(LABELS, "random", 3, 0, seed=1)


def test_shared_datasets_load(shared_data: Path) -> None:
    data = load_dataset(f"npz:{shared_data}/cifar10_10k.npz", train_limit=100)
    assert data.x_train.shape == (100, 32, 32, 3)
    assert data.classes == 10
