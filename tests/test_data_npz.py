"""Array files: unpacked into the cache once, mapped from then on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from common.data import Loaded, npz, open_split
from common.errors import DataError

RNG = np.random.default_rng(0)
ARRAYS = {
    "x_train": RNG.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8),
    "y_train": np.arange(20) % 4,
    "x_test": RNG.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8),
    "y_test": np.arange(5) % 4,
}
SOME = np.array([3, 17, 4])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.savez_compressed(tmp_path / "data.npz", **ARRAYS)
    return tmp_path / "data.npz"


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Members that have been unpacked."""
    names: list[str] = []
    original = npz._unpack
    monkeypatch.setattr(
        npz, "_unpack", lambda archive, wanted, kept: names.extend(wanted) or original(archive, wanted, kept)
    )
    return names


def load(path: Path, cache: Path, part: str = "train", **options: int) -> Loaded:
    return open_split(f"npz:{path}", part, 28, cache, **options).load(SOME if part == "train" else SOME[:1])  # type: ignore[arg-type]


def test_members_are_unpacked_once_and_only_what_is_asked_for_is_copied(
    path: Path, tmp_path: Path, unpacked: list[str]
) -> None:
    first = load(path, tmp_path / "cache")
    assert np.array_equal(first.images, ARRAYS["x_train"][SOME])
    assert np.array_equal(first.labels, ARRAYS["y_train"][SOME])
    assert unpacked == ["x_train", "y_train", "y_test"]
    assert len(list((tmp_path / "cache" / "arrays").iterdir())) == 3
    again = load(path, tmp_path / "cache")
    assert len(unpacked) == 3, "a new process maps what is there"
    assert np.array_equal(again.images, first.images)
    assert not isinstance(first.images, np.memmap), "copied, so the file may go"
    test = load(path, tmp_path / "cache", "test")
    assert np.array_equal(test.images, ARRAYS["x_test"][SOME[:1]])


def test_a_changed_file_is_unpacked_again_and_has_another_identity(
    path: Path, tmp_path: Path, unpacked: list[str]
) -> None:
    first = load(path, tmp_path / "cache")
    assert load(path, tmp_path / "other cache").identity == first.identity
    assert load(path, tmp_path / "cache", "test").identity != first.identity
    np.savez_compressed(path, **(ARRAYS | {"x_train": 255 - ARRAYS["x_train"]}))
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    changed = load(path, tmp_path / "cache")
    assert np.array_equal(changed.images, 255 - first.images)
    assert changed.identity != first.identity
    others = open_split(f"npz:{path}", "train", 28, tmp_path / "cache").load(SOME[::-1])
    assert others.identity != changed.identity


def test_damaged_and_missing_cache_files_are_made_again(path: Path, tmp_path: Path, unpacked: list[str]) -> None:
    load(path, tmp_path / "cache")
    for damage in (
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(b""),
        Path.unlink,
    ):
        unpacked.clear()
        damage(next((tmp_path / "cache" / "arrays").glob("*-x_train.npy")))
        assert np.array_equal(load(path, tmp_path / "cache").images, ARRAYS["x_train"][SOME])
        assert unpacked


def test_without_a_cache_it_is_read_into_memory(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blocked").write_text("not a folder")
    assert np.array_equal(load(path, tmp_path / "blocked").images, ARRAYS["x_train"][SOME])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(npz.shutil, "copyfileobj", full)
    assert np.array_equal(load(path, tmp_path / "cache").images, ARRAYS["x_train"][SOME])
    assert not list((tmp_path / "cache" / "arrays").iterdir())


def test_removed_between_being_written_and_being_mapped(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "kept_array", lambda file: file.unlink(missing_ok=True))
    assert np.array_equal(load(path, tmp_path / "cache").images, ARRAYS["x_train"][SOME])


def test_a_limit_removes_the_arrays_of_other_files(path: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", **ARRAYS)
    load(path, tmp_path / "cache")
    load(tmp_path / "other.npz", tmp_path / "cache", limit_bytes=1)
    assert len(list((tmp_path / "cache" / "arrays").iterdir())) == 3
    assert np.array_equal(load(path, tmp_path / "cache").images, ARRAYS["x_train"][SOME])


def test_what_the_cache_holds_for_a_site_is_not_a_whole_dataset(tmp_path: Path) -> None:
    site = {key: value for key, value in ARRAYS.items() if key.endswith("train")}
    np.savez(tmp_path / "site.npz", **site)
    assert len(load(tmp_path / "site.npz", tmp_path / "cache", own=True).labels) == 3
    with pytest.raises(DataError, match="has no x_test, y_test"):
        load(tmp_path / "site.npz", tmp_path / "cache")


def test_damage_within_the_archive_is_said(path: Path, tmp_path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        load(path, tmp_path / "cache")
    path.write_bytes(content[:-30])
    with pytest.raises(DataError, match="cannot be read"):
        load(path, tmp_path / "cache")
