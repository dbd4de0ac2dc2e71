"""Which sub-folders of a folder of images are classes, which are splits, and which are neither."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from common.errors import DataError
from tests.images import SYSTEM, inventory, open_site, picture, write_folder


@pytest.mark.parametrize(
    ("train", "others"),
    [
        ("train", ["val", "test"]),
        ("Training", ["Validation", "Testing"]),
        ("TRAIN", ["valid"]),
        ("train2017", ["val2017", "test2017"]),
        ("training_set", ["test-set"]),
        ("trainset", ["dev", "eval", "testset"]),
        ("TrainingData", ["TestData", "valImages"]),
        ("train", []),
    ],
)
def test_splits_are_no_classes(tmp_path: Path, train: str, others: list[str]) -> None:
    root = tmp_path / "site"
    for name in [train, *others]:
        write_folder(root / name, {"apple": 2, "sea": 1}, seed=len(name))
    split = open_site(root)
    assert split.classes == ("apple", "sea")
    assert split.labels.tolist() == [0, 0, 1]
    assert split.inventory is not None
    assert dict(split.inventory.passed_over) == ({"of another split": 3 * len(others)} if others else {})


def test_a_server_tests_on_the_test_split_however_it_is_called(tmp_path: Path) -> None:
    for name in ("Train", "valid", "Testing"):
        write_folder(tmp_path / "data" / name, {"apple": len(name)})
    assert len(open_site(tmp_path / "data", "test", own=False).labels) == 7
    assert len(open_site(tmp_path / "data", "train", own=False).labels) == 5


@pytest.mark.parametrize(
    ("folders", "part", "message"),
    [
        (
            ["train/a", "Training/a", "test/a"],
            "train",
            "and more than one of train images; let exactly one",
        ),
        (["train/a", "val/a"], "test", "the splits train, val, none of which has test images"),
        (["val/a", "test/a"], "train", "none of which has train images"),
        (["train/a", "test/a", "boat"], "train", r"and others \(boat\) are not. Put the class folders into the splits"),
        (["train", "test"], "train", "none has class folders in it. Sort their images into train/CLASS"),
        (["archive/train/a", "archive/test/a"], "train", r"'archive' in .* has splits in it \(test, train\). Name it"),
        (["a/train", "a/val", "b/train", "b/val"], "train", "or turn train and classes round: train/CLASS"),
    ],
)
def test_what_may_be_splits_or_classes_is_refused(
    tmp_path: Path, folders: list[str], part: Literal["train", "test"], message: str
) -> None:
    for folder in folders:
        path = tmp_path / "site" / folder
        write_folder(path.parent, {path.name: 2})
    with pytest.raises(DataError, match=message):
        open_site(tmp_path / "site", part)


@pytest.mark.parametrize("names", [["train", "bus"], ["valid", "invalid"], ["test"], ["contest", "training shoe"]])
def test_classes_may_be_called_as_a_split_is(tmp_path: Path, names: list[str]) -> None:
    assert open_site(write_folder(tmp_path / "site", dict.fromkeys(names, 2))).classes == tuple(sorted(names))


def test_empty_and_system_folders_are_no_classes(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "site", {"apple": 2, "sea": 1})
    for name in SYSTEM:
        (root / name).mkdir()
        write_folder(root / "apple", {name: 2}, seed=len(name))  # copies of the class's, in small
    (root / "new").mkdir()
    (root / "notes" / "deep").mkdir(parents=True)
    (root / "notes" / "deep" / "readme.txt").write_text("x")
    split = open_site(root)
    assert split.classes == ("apple", "sea")
    assert len(split.labels) == 3
    found = split.inventory
    assert found is not None
    assert dict(found.passed_over) == {"in a system folder": 12, "hidden": 2, "no image": 1}
    assert found.empty == ("new", "notes")


def test_folders_within_a_class_are_reported(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "site", {"apple": 2})
    write_folder(root / "apple", {"2023": 3, "2024": 4}, seed=1)
    found = inventory(root)
    assert (len(found.used), found.deeper, found.deeper_folders) == (9, 7, ("apple/2023", "apple/2024"))
    assert "7 of those used lie in 2 deeper folders (apple/2023)" in found.text(found.duplicates())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (os.fsdecode("Möwe".encode("latin-1")), r"'M\\udcf6we' in .* is not UTF-8.*convmv"),
        ("a\nb", r"'a\\nb' in .* control characters"),
        ("a\x1b[2J", "control characters"),
        ("a\u2028b", "control characters"),
        ("  ", "nothing but blanks"),
    ],
)
def test_class_names_that_cannot_travel_are_refused(tmp_path: Path, name: str, message: str) -> None:
    root = write_folder(tmp_path / "site", {"apple": 1, name: 1})
    for open_it in (lambda: open_site(root), lambda: open_site(root, "test", own=False)):
        with pytest.raises(DataError, match=message) as refusal:
            open_it()
        assert str(refusal.value).isprintable()


def test_files_may_have_any_name(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "site", {"apple": 1})
    (root / "apple" / os.fsdecode(b"M\xf6we\n.png")).write_bytes(picture("PNG"))
    (root / "apple" / os.fsdecode(b"M\xf6we\n.txt")).write_bytes(b"x")
    split = open_site(root)
    assert split.load(np.arange(2)).broken == 0
    assert split.inventory is not None
    split.inventory.text(split.inventory.duplicates()).encode()
