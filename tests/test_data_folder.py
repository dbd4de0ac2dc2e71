"""Folders of images, a sub-folder for each class."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data import Split, open_split
from common.errors import DataError
from tests.images import write_folder


def open_folder(root: Path, part: str = "train", own: bool = True) -> Split:
    return open_split(f"folder:{root}", part, 16, root.parent / "cache", own=own)  # type: ignore[arg-type]


def test_classes_are_sub_folders_in_order(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "site", {"sea": 2, "apple": 3})
    (root / ".git").mkdir()
    (root / "apple" / ".DS_Store").write_bytes(b"x")
    (root / "apple" / "._0-000.png").write_bytes(b"x")
    (root / "apple" / "notes.txt").write_text("x")
    (root / "readme.md").write_text("x")
    write_folder(root / "sea", {"deep": 1})
    Image.new("L", (9, 9)).save(root / "sea" / "UPPER.PNG")
    split = open_folder(root)
    assert split.classes == ("apple", "sea")
    assert split.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    loaded = split.load(split.balanced(0))
    assert loaded.images.shape == (7, 16, 16, 3)
    assert loaded.broken == 0
    assert loaded.images[0, 8, 8].argmax() == 0  # red
    limited = split.load(split.balanced(2))
    assert limited.labels.tolist() == [0, 1]


def test_the_order_of_images_is_that_of_their_names(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", {"sea": 12}, seed=5)
    for name in reversed(sorted(os.listdir(tmp_path / "a" / "sea"))):
        (tmp_path / "b" / "sea").mkdir(parents=True, exist_ok=True)
        (tmp_path / "b" / "sea" / name).write_bytes((tmp_path / "a" / "sea" / name).read_bytes())
    first, second = (open_folder(tmp_path / name) for name in "ab")
    everything = np.arange(12)
    assert np.array_equal(first.load(everything).images, second.load(everything).images)


def test_train_and_test_folders_are_two_splits(tmp_path: Path) -> None:
    write_folder(tmp_path / "data" / "train", {"apple": 4, "sea": 4})
    write_folder(tmp_path / "data" / "test", {"apple": 1, "sea": 2})
    assert len(open_folder(tmp_path / "data", "train", own=False).labels) == 8
    assert len(open_folder(tmp_path / "data", "test", own=False).labels) == 3
    assert len(open_folder(tmp_path / "data", "train", own=True).labels) == 8


def test_a_flat_folder_is_the_servers_test_images_or_a_sites_own(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", {"apple": 4, "sea": 4})
    assert len(open_folder(root, "test", own=False).labels) == 8
    assert len(open_folder(root, "train", own=True).labels) == 8
    with pytest.raises(DataError, match=r"no sub-folders train and test.*data='folder:"):
        open_folder(root, "train", own=False)


def test_empty_folders_say_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    with pytest.raises(DataError, match="a sub-folder for each class"):
        open_folder(tmp_path / "site")
    (tmp_path / "site" / "apple").mkdir()
    with pytest.raises(DataError, match=r"no image in .*JPEG, PNG.*Passed over: nothing"):
        open_folder(tmp_path / "site")


def test_labels_are_those_of_the_run_whatever_the_site_has(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "site", {"sea": 2, "apple": 1})
    run = ("sea", "fern", "apple")
    agreed = open_folder(root).agreed(run, "site")
    assert agreed.classes == run
    assert agreed.labels.tolist() == [2, 0, 0]
    (root / "fern").mkdir()  # no images of a class: fine, known or not
    (root / "empty").mkdir()
    assert open_folder(root).agreed(run, "site").labels.tolist() == [2, 0, 0]
    with pytest.raises(DataError, match=r"data = 'folder:x': unknown class 'apple'.*dataset: fern, sea\. Rename"):
        open_folder(root).agreed(("fern", "sea"), "data = 'folder:x'")
    with pytest.raises(DataError, match="unknown classes 'apple', 'sea'"):
        open_folder(root).agreed(("fern",), "site")


def test_names_compare_as_people_read_them(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "Möwe")
    write_folder(tmp_path / "site", {decomposed: 1})
    assert open_folder(tmp_path / "site").classes == ("Möwe",)


def test_files_that_change_are_decoded_anew(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "site", {"apple": 1})
    (file,) = (root / "apple").iterdir()
    before = np.array(open_folder(root).load(np.arange(1)).images)
    Image.new("RGB", (40, 40), (0, 0, 255)).save(file)
    os.utime(file, ns=(1, 1))
    assert not np.array_equal(open_folder(root).load(np.arange(1)).images, before)


def test_a_file_that_is_removed_after_it_was_listed_is_a_broken_image(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "site", {"apple": 2})
    split = open_folder(root)
    next((root / "apple").iterdir()).unlink()
    loaded = split.load(np.arange(2))
    assert (len(loaded.images), loaded.broken) == (1, 1)
