"""Datasets of the hub: everything but the download, on local repositories of the same layout."""

from __future__ import annotations

import dataclasses
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config.run import RunConfig
from common.data import Split, open_split
from common.data.catalogue import HUB
from common.errors import DataError
from deltamask_client.partition import partition_indices

NAMES = ["ant", "bee", "cow"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def repository(root: Path, name: str, splits: dict[str, list[np.ndarray]], **change: object) -> None:
    """A folder as the hub would have it for an entry of the table: parquet files, and a card with the configuration."""
    import datasets

    entry = HUB[name]
    label = change.get("label", entry.label)
    config = entry.config or "default"
    for split, images in splits.items():
        encoded = []
        for pixels in images:
            file = BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            encoded.append({"bytes": file.getvalue(), "path": None})
        features = datasets.Features(
            {entry.image: datasets.Image(), label: datasets.ClassLabel(names=NAMES), "more": datasets.Value("string")}
        )
        rows = datasets.Dataset.from_dict(
            {entry.image: encoded, label: [i % 3 for i in range(len(images))], "more": ["x"] * len(images)},
            features=features,
        )
        rows.to_parquet(root / config / f"{split}-00000-of-00001.parquet")
    files = "\n".join(f"  - split: {split}\n    path: {config}/{split}-*" for split in splits)
    (root / "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}\n---\n")


def images(count: int, side: int, seed: int = 0, grey: bool = False) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (side, side) if grey else (side, side, 3), dtype=np.uint8) for _ in range(count)]


def local(monkeypatch: pytest.MonkeyPatch, name: str, root: Path) -> None:
    monkeypatch.setitem(HUB, name, dataclasses.replace(HUB[name], id=str(root)))  # type: ignore[arg-type]


def everything(split: Split) -> np.ndarray:
    return np.asarray(split.load(split.balanced(0)).images)


def test_the_table_has_the_papers_eight_datasets() -> None:
    assert set(HUB) == {
        "cifar10", "cifar100", "svhn", "emnist", "fashion-mnist", "eurosat", "food101", "stanford-cars",
    }  # fmt: skip
    assert all(RunConfig(dataset=name).data.dataset == name for name in HUB)


def test_images_of_one_size_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = images(9, 32), images(6, 32, seed=1)
    repository(tmp_path / "repo", "cifar10", {"train": train, "test": test})
    local(monkeypatch, "cifar10", tmp_path / "repo")
    split = open_split("cifar10", "train", 224, tmp_path / "cache")
    assert split.classes == tuple(NAMES)
    assert split.labels.tolist() == [0, 1, 2] * 3
    assert np.array_equal(everything(split), train)
    assert np.array_equal(everything(open_split("cifar10", "test", 224, tmp_path / "cache")), test)
    part = partition_indices(split.labels, "iid", 3, 1, seed=1)
    assert np.array_equal(split.load(part).images, np.array(train)[part])


def test_a_configuration_is_chosen_and_other_splits_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(tmp_path / "repo", "svhn", {"train": images(6, 32), "test": images(3, 32, 1), "extra": images(9, 32, 2)})
    local(monkeypatch, "svhn", tmp_path / "repo")
    assert np.array_equal(everything(open_split("svhn", "train", 96, tmp_path / "cache")), images(6, 32))


def test_splits_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {name: images(3, 64, seed) for seed, name in enumerate(("train", "validation", "test"))}
    repository(tmp_path / "repo", "eurosat", parts)
    local(monkeypatch, "eurosat", tmp_path / "repo")
    split = open_split("eurosat", "train", 224, tmp_path / "cache")
    assert np.array_equal(everything(split), parts["train"] + parts["validation"])
    assert len(open_split("eurosat", "test", 224, tmp_path / "cache").labels) == 3


def test_emnist_is_turned_upright_and_grey_becomes_rgb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    letters = images(3, 28, grey=True)
    repository(tmp_path / "repo", "emnist", {"train": letters, "test": letters})
    local(monkeypatch, "emnist", tmp_path / "repo")
    upright = everything(open_split("emnist", "test", 224, tmp_path / "cache"))
    assert np.array_equal(upright[..., 1], np.array(letters).transpose(0, 2, 1))


def test_photos_of_different_sizes_come_at_the_size_of_the_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [photo[: 20 + 7 * i] for i, photo in enumerate(images(4, 60))]
    repository(tmp_path / "repo", "food101", {"train": photos, "validation": photos[:2]})
    local(monkeypatch, "food101", tmp_path / "repo")
    assert everything(open_split("food101", "train", 48, tmp_path / "cache")).shape == (4, 48, 48, 3)
    assert everything(open_split("food101", "test", 48, tmp_path / "cache")).shape == (2, 48, 48, 3)


def test_images_are_known_by_the_files_of_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {name: images(3, 64, seed) for seed, name in enumerate(("train", "validation", "test"))}
    repository(tmp_path / "repo", "eurosat", parts)
    local(monkeypatch, "eurosat", tmp_path / "repo")

    def identity(part: str, *positions: int) -> bytes:
        split = open_split("eurosat", part, 224, tmp_path / "cache")  # type: ignore[arg-type]
        return split.load(np.array(positions)).identity

    first = identity("train", 0, 1)
    assert identity("train", 0, 1) == first, "opened again"
    assert len({first, identity("train", 1, 0), identity("train", 0, 2), identity("test", 0, 1)}) == 4
    repository(tmp_path / "again", "eurosat", {name: images(3, 64, seed + 9) for seed, name in enumerate(parts)})
    local(monkeypatch, "eurosat", tmp_path / "again")
    assert identity("train", 0, 1) != first


def test_another_layout_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(tmp_path / "repo", "cifar100", {"train": images(3, 32), "test": images(3, 32)}, label="label")
    local(monkeypatch, "cifar100", tmp_path / "repo")
    with pytest.raises(DataError, match="has columns img, label, more, not img and fine_label"):
        open_split("cifar100", "train", 32, tmp_path / "cache")
    repository(tmp_path / "other", "cifar10", {"train": images(3, 32)})
    local(monkeypatch, "cifar10", tmp_path / "other")
    with pytest.raises(DataError, match=r"cannot be loaded: .*test.*npz:PATH"):
        open_split("cifar10", "train", 32, tmp_path / "cache")


def test_without_the_hub_it_fails_in_seconds_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets  # noqa: F401  (the import itself takes seconds)
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    begun = time.monotonic()
    with pytest.raises(DataError, match=r"127.0.0.1:9 cannot be reached.*uoft-cs/cifar10.*'npz:PATH' or 'folder:PATH'"):
        open_split("cifar10", "test", 224, tmp_path)
    assert time.monotonic() - begun < 15, "the hub's client tries again for half a minute: that is what must not happen"
