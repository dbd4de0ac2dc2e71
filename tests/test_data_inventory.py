"""What becomes of every file of a folder: used, or passed over and counted by reason."""

from __future__ import annotations

import os
import socket
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.data import tree as tree_module
from common.data.inventory import COUNTED, PASSED_OVER, Inventory
from common.errors import DataError
from tests.images import SYSTEM, inventory, open_site, picture, write_folder


def test_one_class_in_two_forms_of_unicode_is_one(tmp_path: Path) -> None:
    for form, count in (("NFC", 7), ("NFD", 5)):
        write_folder(tmp_path / "site", {unicodedata.normalize(form, "Möwe"): count}, seed=count)
    found = inventory(tmp_path / "site")
    assert (len(found.used), set(found.labels), len(found.merged)) == (12, {0}, 1)
    assert "2 folders are one class" in found.text(found.duplicates())


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
@pytest.mark.parametrize("name", ["x", "x.JPG", "x.jfif", "x.jpe", "x.dat", "x.heic"])
def test_images_are_read_by_what_is_in_them(tmp_path: Path, form: str, name: str) -> None:
    (tmp_path / "site" / "apple").mkdir(parents=True)
    (tmp_path / "site" / "apple" / name).write_bytes(picture(form))
    split = open_site(tmp_path / "site")
    assert (len(split.labels), split.load(np.arange(1)).broken) == (1, 0)


def box(*brands: bytes) -> bytes:
    content = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    return (len(content) + 4).to_bytes(4, "big") + content + bytes(20)


OTHERS: dict[str, tuple[str, bytes]] = {
    "a.heic": ("HEIC", box(b"heic", b"mif1", b"heic")),
    "b.jpg": ("HEIC", box(b"mif1", b"heic")),
    "c.avif": ("AVIF", box(b"mif1", b"avif")),
    "d.mp4": ("video", box(b"isom", b"mp41")),
    "e.jp2": ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n"),
    "f.jxl": ("JPEG XL", b"\xff\x0a\0\0"),
    "g.svg": ("SVG", b'<?xml version="1.0"?>\n<svg xmlns="x"/>'),
    "h.pdf": ("PDF", b"%PDF-1.7"),
    "j.NEF": ("camera raw", picture("TIFF")),
    "k.psd": ("Photoshop", b"8BPS\0\1"),
    "l.zip": ("archive", b"PK\3\4"),
    "m.png": ("empty file", b""),
    "n.png": ("named as an image but none", b"<html>404</html>"),
    "o.txt": ("no image", b"Birds, and BMs"),
    "p.ico": ("another image format", b"\0\0\1\0\1\0"),
    "BMs.txt": ("no image", b"BM stands for bitmap, and text is none"),
    "P6.txt": ("no image", b"P6x"),
    ".hidden.png": ("hidden", picture("PNG")),
}


def test_files_that_are_not_read_are_counted_by_kind_with_an_example(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "site", {"apple": 1})
    expected: dict[str, list[str]] = {}
    for name, (reason, content) in OTHERS.items():
        (root / "apple" / name).write_bytes(content)
        expected.setdefault(reason, []).append(f"apple/{name}")
    (root / "loose.png").write_bytes(picture("PNG"))
    (root / "apple" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "apple" / "round").symlink_to("round")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(root / "apple" / "door"))
    expected |= {
        "in no class folder": ["loose.png"],
        "link to nothing": ["apple/gone.png"],
        "link in a circle": ["apple/round"],
        "no regular file": ["apple/door"],
    }
    found = inventory(root)
    assert dict(found.passed_over) == {reason: len(paths) for reason, paths in expected.items()}
    assert found.examples == {reason: min(paths) for reason, paths in expected.items()}
    text = found.text(found.duplicates())
    assert all(f"{len(paths)} {reason} ({min(paths)})" in text for reason, paths in expected.items())
    assert found.suspicious(found.duplicates())


def test_what_may_not_be_read_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path / "site", {"apple": 3})
    closed = sorted((root / "apple").iterdir())[0]
    (root / "apple" / "closed").mkdir()
    write_folder(root / "apple", {"closed": 2})
    real_open, real_scan = open, os.scandir

    def refuse(path: str, *args: object, **options: object) -> object:  # root may read everything
        if path == str(closed):
            raise PermissionError(13, "Permission denied")
        return real_open(path, *args, **options)  # type: ignore[call-overload]

    def refuse_folder(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real_scan(path)

    monkeypatch.setattr(tree_module, "open", refuse, raising=False)
    monkeypatch.setattr(tree_module.os, "scandir", refuse_folder)
    found = inventory(root)
    assert (len(found.used), dict(found.passed_over)) == (2, {"may not be read": 2})
    monkeypatch.setattr(tree_module.os, "scandir", lambda path: refuse_folder("closed"))
    with pytest.raises(DataError, match="cannot be listed: Permission denied"):
        open_site(root)


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    store = write_folder(tmp_path / "store", {"fern": 4, "more": 5}, seed=1)
    root = write_folder(tmp_path / "site", {"apple": 6, "sea": 2})
    (root / "fern").symlink_to(store / "fern")
    (root / "apple" / "more").symlink_to(store / "more")
    (store / "more" / "again").symlink_to(store / "more")
    (root / "apple" / "all").symlink_to(tmp_path)  # and so round and round
    (root / "apple" / "a sea").symlink_to(root / "sea")  # sorted before the sea itself
    (root / "ocean").symlink_to(root / "sea")
    found = inventory(root)
    assert np.bincount(found.labels).tolist() == [11, 4, 2]
    assert dict(found.passed_over) == {"link in a circle": 2, "folder there twice": 2}
    assert found.duplicates().copies == 0


def test_a_link_into_a_hidden_folder_is_followed(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "site", {".store": 3})
    (root / "apple").symlink_to(root / ".store")
    found = inventory(root)
    assert (len(found.used), dict(found.passed_over)) == (3, {"hidden": 3})


def test_the_same_content_twice_is_counted_and_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "site", {"apple": 3, "sea": 3})
    first = sorted((root / "apple").iterdir())[0].read_bytes()
    (root / "apple" / "z.png").write_bytes(first)
    (root / "sea" / "z.png").write_bytes(first)
    (root / "sea" / "link.png").symlink_to(sorted((root / "sea").iterdir())[0])
    tail = bytes(10_000)  # alike in size, beginning, middle and end
    for name, byte in (("p", b"1"), ("q", b"2")):
        (root / "sea" / name).write_bytes(picture("PNG") + bytes(10) + byte + tail)
    found = inventory(root)
    duplicates = found.duplicates()
    assert duplicates == (3, 1, ("apple/0-000.png", "sea/z.png"))
    counts = found.counts(duplicates)
    assert counts == {"used": 11, "used twice": 3, "used in two classes": 1}


NAMES = st.sampled_from(
    ["apple", "sea", "Möwe", unicodedata.normalize("NFD", "Möwe"), *SYSTEM, ".git", "2024", "a b", "train", "Val"]
)
FILES = st.sampled_from(["a.png", "b.JPG", "c", ".d", "e.txt", os.fsdecode(b"\xff.png")])
CONTENTS = st.sampled_from([picture("PNG"), picture("JPEG"), picture("BMP", 3), b"", b"x", OTHERS["a.heic"][1]])
LINKS = st.sampled_from([".", "..", "../..", "nowhere", "apple", "../sea", "../apple/2024", "a.png", "self"])
FOLDERS = st.lists(NAMES, min_size=0, max_size=3).map(tuple)
TREES = st.lists(
    st.one_of(
        st.tuples(st.just("file"), FOLDERS, FILES, CONTENTS),
        st.tuples(st.just("link"), FOLDERS, st.sampled_from(["self", "l1", ".l2", "sea"]), LINKS),
        st.tuples(st.just("folder"), FOLDERS, NAMES, st.just(b"")),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES)
def test_every_file_is_used_or_counted(tmp_path_factory: pytest.TempPathFactory, tree: list[tuple]) -> None:
    root = tmp_path_factory.mktemp("any") / "site"
    write_folder(root, {"apple": 1})
    for kind, folders, name, content in tree:
        folder = root.joinpath(*folders)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if kind == "file":
                (folder / name).write_bytes(content)
            elif kind == "link":
                (folder / name).symlink_to(content)
            else:
                (folder / name).mkdir()
        except OSError:  # something else has this name
            continue
    files, links = set(), set()  # what lies here itself
    for path in root.rglob("*"):
        if path.is_symlink():
            links.add(path.relative_to(root).as_posix())
        elif not path.is_dir():
            files.add(path.relative_to(root).as_posix())
    try:
        split = open_site(root)
    except DataError:  # apple beside train and Val, or both below it
        assert {"train", "Val"} <= {part for path in files | links for part in path.split("/")}
        return
    found = split.inventory
    assert found is not None
    loaded = split.load(np.arange(len(split.labels)))
    assert len(loaded.images) + loaded.broken == len(found.used)
    assert set(found.passed_over) <= set(PASSED_OVER)
    assert len(found.used) == len(set(found.used))
    # A link counts as a file, unless it leads to a folder that is not there otherwise: then that folder's files do.
    total = len(found.used) + sum(found.passed_over.values())
    assert total == len(files) + len(links) + _of_followed(root, links, found)
    hidden = [path for path in found.used if any(part.startswith((".", "@", "$")) for part in path.split("/"))]
    assert not hidden
    duplicates = found.duplicates()
    contents = [(root / path).read_bytes() for path in found.used]
    assert duplicates.copies == len(contents) - len(set(contents))
    assert set(found.counts(duplicates)) <= set(COUNTED)
    found.text(duplicates).encode()


def _of_followed(root: Path, links: set[str], found: Inventory) -> int:
    """Beyond one for each link: of those followed, which lead to hidden or system folders, what lies in them."""
    listed = [entry.relative for entry in tree_module.walk(root).entries]
    followed = [link for link in links if any(path.startswith(f"{link}/") for path in listed)]
    return sum(sum(path.startswith(f"{link}/") for path in listed) - 1 for link in followed)
