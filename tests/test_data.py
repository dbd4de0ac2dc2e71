from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.data import Loaded, open_split
from common.errors import DataError
from deltamask_client.partition import partition_indices

LABELS = np.arange(600) % 10


def load(source: str, part: str, limit: int = 0, own: bool = False) -> Loaded:
    split = open_split(source, part, 28, Path("/dev/null"), own=own)  # type: ignore[arg-type]
    return split.load(split.balanced(limit))


def test_digits_are_built_in() -> None:
    train, test = load("digits", "train"), load("digits", "test")
    assert (len(train.images), len(test.images)) == (1347, 450)
    assert train.images.dtype == np.uint8
    assert train.images.max() == 255
    assert set(test.labels) == set(range(10))
    assert open_split("digits", "train", 28, Path("/dev/null")).classes == tuple("0123456789")


def test_limits_keep_classes_in_balance() -> None:
    assert sorted(np.bincount(load("digits", "train", 103).labels)) == [10] * 7 + [11] * 3
    assert np.bincount(load("digits", "test", 20).labels).tolist() == [2] * 10


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
    test = load(f"npz:{path}", "test")
    assert np.array_equal(test.images, parts["x_test"])
    assert np.array_equal(test.labels, parts["y_test"])
    assert test.broken == 0
    assert open_split(f"npz:{path}", "train", 28, tmp_path).classes == ("0", "1", "2", "3")

    wrong = {
        "has no y_test": {key: value for key, value in parts.items() if key != "y_test"},
        "uint8": parts | {"x_train": parts["x_train"].astype(np.float32)},
        "19 labels for 20 images": parts | {"y_train": parts["y_train"][:-1]},
        "integers": parts | {"y_train": parts["y_train"] - 1},
        "cannot be read": parts | {"y_train": np.array([object()] * 20)},
        "holds no train images": parts | {"x_train": parts["x_train"][:0], "y_train": parts["y_train"][:0]},
    }
    for message, content in wrong.items():
        np.savez(path, **content)
        with pytest.raises(DataError, match=message):
            load(f"npz:{path}", "train")
    path.write_bytes(b"not a zip file")
    with pytest.raises(DataError, match="cannot be read"):
        load(f"npz:{path}", "train")


def test_a_sites_own_npz_needs_no_test_images(tmp_path: Path) -> None:
    path = tmp_path / "site.npz"
    np.savez(path, x_train=np.zeros((3, 8, 8), np.uint8), y_train=np.array([2, 0, 2]))
    assert load(f"npz:{path}", "train", own=True).labels.tolist() == [2, 0, 2]
    with pytest.raises(DataError, match="has no x_test, y_test"):
        load(f"npz:{path}", "train")
    split = open_split(f"npz:{path}", "train", 28, tmp_path, own=True)
    assert split.agreed(("cat", "cow", "dog", "elk"), "site").classes == ("cat", "cow", "dog", "elk")
    with pytest.raises(DataError, match=r"label 2, but the classes of this run are 0 \.\. 1"):
        split.agreed(("cat", "dog"), "site")


def test_unknown_sources_name_the_choices(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"npz:PATH.*folder:PATH.*cifar10"):
        load("imagenet", "train")
    with pytest.raises(DataError, match="no file at"):
        load(f"npz:{tmp_path}/none.npz", "train")
    with pytest.raises(DataError, match="no folder at"):
        load(f"folder:{tmp_path}/none", "train")


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
    data = load(f"npz:{shared_data}/cifar10_10k.npz", "train", 100)
    assert data.images.shape == (100, 32, 32, 3)
    assert set(data.labels) == set(range(10))
