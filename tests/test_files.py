"""Files of a cache: written whole or not at all, removed when there are too many, and told apart without reading."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.encoded import Encoded, decode_all
from common.files import evict, file_identity, kept_array, replacing
from common.models.activations import Activations
from common.models.backbone import load_backbone
from deltamask_client.run_file import RunFile
from tests.test_data_images import saved


def name(number: int, end: str = "") -> str:
    return f"{number:032x}{end}.npy"


def write(path: Path, values: np.ndarray) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, values)


def aged(path: Path, seconds: int) -> None:
    """As if it had been used so long ago."""
    then = path.stat().st_mtime_ns - seconds * 10**9
    os.utime(path, ns=(then, then))


def test_a_file_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with replacing(path, fsync=True) as temporary:
        temporary.write_bytes(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileNotFoundError), replacing(path) as temporary:
        temporary.write_bytes((path.parent / "none").read_bytes())
    assert path.read_bytes() == b"first"
    with replacing(path, mode=0o644) as temporary:
        temporary.write_bytes(b"second")
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_or_damaged_array_is_none(tmp_path: Path) -> None:
    path = tmp_path / name(1)
    assert kept_array(path) is None
    write(path, np.arange(1000))
    found = kept_array(path)
    assert found is not None
    assert np.array_equal(found, np.arange(1000))
    content = path.read_bytes()
    for damaged in (b"", b"nothing", content[:60], content[:-1], bytes(len(content)), b"PK\3\4" + content):
        path.write_bytes(damaged)
        assert kept_array(path) is None
    np.save(path, np.array([{"a": 1}]), allow_pickle=True)
    assert kept_array(path) is None


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    paths = [tmp_path / name(number) for number in range(4)]
    for number, path in enumerate(paths):
        write(path, np.zeros(1000, np.uint8))
        aged(path, 100 - number)
    assert kept_array(paths[0]) is not None  # used just now
    users = [tmp_path / "my data.npy", tmp_path / "x.txt", tmp_path / "run-1-client-2.safetensors"]
    for path in users:
        path.write_bytes(bytes(5000))
    size = paths[0].stat().st_size
    evict(tmp_path, 3 * size, paths[3])
    assert [path.exists() for path in paths] == [True, False, True, True]
    evict(tmp_path, 1, paths[3])
    assert [path.exists() for path in paths] == [False, False, False, True]
    assert all(path.exists() for path in users), "a user's own files are not the cache's"


def test_what_a_killed_process_left_goes_after_a_day(tmp_path: Path) -> None:
    old, new, other = (tmp_path / leaf for leaf in (f"{name(1)}.abc.tmp", f"{name(2)}.abc.tmp", "letter.tmp"))
    for path in (old, new, other):
        path.write_bytes(b"half")
    aged(old, 2 * 24 * 3600), aged(other, 2 * 24 * 3600)
    evict(tmp_path, 10**9)
    assert not old.exists()
    assert new.exists()
    assert other.exists()


def test_an_array_that_is_mapped_survives_its_removal(tmp_path: Path) -> None:
    path = tmp_path / name(1)
    write(path, np.arange(100_000))
    found = kept_array(path)
    evict(tmp_path, 0)
    assert not path.exists()
    assert found is not None
    assert np.array_equal(found, np.arange(100_000))
    evict(tmp_path / "none", 0)


def test_identity_changes_when_the_file_does(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    first = file_identity(path)
    assert file_identity(path) == first
    (tmp_path / "link").symlink_to(path)
    assert file_identity(tmp_path / "link") == first
    aged(path, 1)
    seen = {first, file_identity(path)}
    path.write_bytes(b"abcd")
    seen.add(file_identity(path))
    shutil.copy2(path, tmp_path / "copy")
    seen.add(file_identity(tmp_path / "copy"))
    os.replace(tmp_path / "copy", path)  # same size and time of change, another file
    seen.add(file_identity(path))
    assert len(seen) == 5


def test_activations_and_images_are_evicted_and_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone("letters-vit", "default", 0, 3)
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 8, 8), dtype=np.uint8)
    activations = [Activations(backbone, each, folder=tmp_path, limit_bytes=1) for each in images]
    assert len(list(tmp_path.iterdir())) == 1
    kept = [each.batch(np.arange(4)) for each in activations]
    again = Activations(backbone, images[0], folder=tmp_path, limit_bytes=1)
    assert np.array_equal(again.batch(np.arange(4)), kept[0])

    items = [
        [Encoded(str(i), bytes([i]), lambda image=image: saved(Image.fromarray(image)))]
        for i, image in enumerate(images[:, 0])
    ]
    decoded = [decode_all(each, 8, tmp_path, limit_bytes=1)[0] for each in items]
    assert len(list((tmp_path / "images").iterdir())) == 2
    assert np.array_equal(decode_all(items[0], 8, tmp_path)[0], decoded[0])

    # Removed by another process between being written and being mapped.
    for module in ("common.models.activations", "common.data.encoded"):
        monkeypatch.setattr(f"{module}.kept_array", lambda path: path.unlink(missing_ok=True))
    again = Activations(backbone, images[1], folder=tmp_path)
    assert np.array_equal(again.batch(np.arange(4)), kept[1])
    assert np.array_equal(decode_all(items[1], 8, tmp_path)[0], decoded[1])


def test_a_damaged_file_of_activations_is_computed_again(tmp_path: Path) -> None:
    backbone = load_backbone("letters-vit", "default", 0, 3)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    expected = Activations(backbone, images, folder=tmp_path).batch(np.arange(4))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    assert np.array_equal(Activations(backbone, images, folder=tmp_path).batch(np.arange(4)), expected)
    assert kept_array(path) is not None


def test_a_run_file_is_written_beside_others_that_come_and_go(tmp_path: Path) -> None:
    class Tensors(RunFile):
        folder = "tensors"

        def digest(self) -> bytes | None:
            return None

    old = tmp_path / "tensors" / "run-1-client-1.safetensors"
    old.parent.mkdir()
    old.write_bytes(b"old")
    aged(old, 8 * 24 * 3600)
    file = Tensors(tmp_path, 0, 2)
    assert file._write({"a": np.arange(3)}, {"b": "c"})
    found = file._read()
    assert found is not None
    assert np.array_equal(found[0]["a"], np.arange(3))
    assert found[1] == {"b": "c"}
    assert [path.name for path in old.parent.iterdir()] == ["run-2-client-0.safetensors"]
    assert file._write({"a": np.arange(3, dtype=np.uint16)}, {})
    path = old.parent / "run-2-client-0.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].replace(b'"U16"', b'"BF16"')
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    assert file._read() is None, "numpy has no such type"
    (tmp_path / "blocked").write_text("not a folder")
    assert not Tensors(tmp_path / "blocked", 0, 2)._write({"a": np.arange(3)}, {})
