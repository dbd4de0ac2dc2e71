"""Which sub-folders of a folder are classes, and which are splits: ``train/ val/ test/`` are no three classes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from common.data.tree import Entry
from common.errors import DataError, brief

__all__ = ["Layout", "find_layout"]

_SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "vld"), "validation"),
    **dict.fromkeys(("dev", "devel", "development", "eval", "evaluation"), "validation"),
    **dict.fromkeys(("holdout", "heldout"), "validation"),
    **dict.fromkeys(("test", "tests", "testing", "tst"), "test"),
}
"""Names in use, without case, digits and the words that stand beside them: ``Test_Set``, ``val2017``, ``trainset``."""
_BESIDE = {"set", "split", "data", "dataset", "images", "image", "imgs", "img", "folder", "seg"}


class Layout(NamedTuple):
    """Where the images of one split lie."""

    folder: str
    """The split's folder below the root, with a slash; empty where the root itself has the class folders."""
    classes: Mapping[str, tuple[str, ...]]
    """Name of each class, sorted, and its folders: more than one where names differ in Unicode's form alone."""
    empty: tuple[str, ...]
    """Folders that would be classes, but have no image."""


def find_layout(root: Path, part: str, own: bool, folders: Collection[str], images: Iterable[Entry]) -> Layout:
    """Tell splits from classes.

    Sub-folders are splits if all that have images are named so and have class folders.

    Parameters
    ----------
    root
        For the errors.
    part
        ``train`` or ``test``.
    own
        The folder is one client's own.
    folders
        The sub-folders of the root and theirs, as paths below it.
    images
        The images below it, of any split.

    Raises
    ------
    DataError
        If there is no such split, or folders may be either.
    """
    paths = [entry.relative.split("/") for entry in images]
    filled = {path[0] for path in paths if len(path) > 1}
    has_folders = any(len(path) > 2 for path in paths)
    splits = _splits(filled)
    others = sorted(name for name in filled if not _split_of(name))
    if _are_many(splits) and (others or not has_folders):
        shown = ", ".join(brief(name) for name in sorted(filled))
        raise DataError(
            f"dataset: {root} has the sub-folders {shown}: some are named as splits, "
            + (
                f"and others ({brief(', '.join(others))}) are not. Put the class folders into the splits, train/CLASS "
                "and test/CLASS, or name a folder that has classes alone"
                if others
                else "and none has class folders in it. Sort their images into train/CLASS and test/CLASS"
            )
        )
    if splits and not others and has_folders:
        name = _one(root, part, splits)
        below = {path[1] for path in paths if path[0] == name and len(path) > 2}
        empty = {folder.partition("/")[2] for folder in folders if folder.startswith(f"{name}/")} - below
        return _check(root / name, Layout(f"{name}/", _merged(sorted(below)), tuple(sorted(empty))), paths)
    if part == "train" and not own:
        raise DataError(
            f"dataset: {root} has no sub-folders train and test, so its images are the server's test images. Give this "
            "client images of its own: --node-config \"... data='folder:/path/to/images'\""
        )
    empty = {folder for folder in folders if "/" not in folder} - filled
    return _check(root, Layout("", _merged(sorted(filled)), tuple(sorted(empty))), paths)


def _split_of(name: str) -> str:
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # TrainingData
    words = [word for word in re.findall(r"[^\W\d_]+", apart.casefold()) if word not in _BESIDE]
    if len(words) != 1:
        return ""
    return _SPLITS.get(words[0]) or _SPLITS.get(re.sub("(set|data|images|imgs)$", "", words[0]), "")


def _splits(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        if split := _split_of(name):
            found.setdefault(split, []).append(name)
    return found


def _are_many(splits: Mapping[str, list[str]]) -> bool:
    """One alone may be a class: trains, tests."""
    return "train" in splits and len(splits) > 1


def _one(root: Path, part: str, splits: Mapping[str, list[str]]) -> str:
    """The folder of a split."""
    names = splits.get(part, [])
    if len(names) != 1:
        shown = brief(", ".join(sorted(name for group in splits.values() for name in group)))
        raise DataError(
            f"dataset: {root} has the splits {shown}, "
            + (f"none of which has {part} images" if not names else f"and more than one of {part} images")
            + f"; let exactly one be called {part}"
        )
    return names[0]


def _merged(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Systems spell accents differently: one name for the forms of Unicode that people cannot tell apart."""
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        key = unicodedata.normalize("NFC", name)
        found[key] = (*found.get(key, ()), name)
    return {key: found[key] for key in sorted(found)}


def _check(root: Path, layout: Layout, paths: Iterable[list[str]]) -> Layout:
    """Splits within a class: the folder named is not the one that was meant."""
    depth = layout.folder.count("/")
    below: dict[str, set[str]] = {}
    for path in paths:
        if len(path) > depth + 2 and (not depth or f"{path[0]}/" == layout.folder):
            below.setdefault(path[depth], set()).add(path[depth + 1])
    for name, inner in sorted(below.items()):
        if _are_many(_splits(inner)):
            raise DataError(
                f"dataset: the folder '{brief(name)}' in {root} has splits in it ({brief(', '.join(sorted(inner)))}). "
                "Name it itself if its splits hold the classes; or turn train and classes round: train/CLASS"
            )
    return layout
