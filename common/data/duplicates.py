"""Image files with the same content, without reading all of them."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Duplicates", "find_duplicates"]

_SAMPLE = 4096


class Duplicates(NamedTuple):
    """Of a folder's images."""

    copies: int
    """Images beyond the first of each content."""
    across: int
    """Those of them whose content another class has too: one of the two is wrong."""
    example: tuple[str, str]
    """Two with the same content, of different classes if there are such; empty where there are none."""


def find_duplicates(root: Path, paths: Sequence[str], labels: Sequence[int]) -> Duplicates:
    """Compare sizes, then a little of those of equal size, then the whole of those that are still alike: photos, and
    frames of one size, are told apart by the first two.

    Parameters
    ----------
    root, paths
        A folder, and files in it; one that cannot be read is like no other.
    labels
        Class of each.
    """
    groups = [list(range(len(paths)))]
    for key in (_size, _sample, _content):
        groups = [alike for group in groups for alike in _divide(group, paths, root, key)]
    copies = across = 0
    example, example_across = ("", ""), ("", "")
    for group in groups:
        copies += len(group) - 1
        example = example if example[0] else (paths[group[0]], paths[group[1]])
        others = [position for position in group if labels[position] != labels[group[0]]]
        across += len(others)
        if others and not example_across[0]:
            example_across = paths[group[0]], paths[others[0]]
    return Duplicates(copies, across, example_across if across else example)


def _divide(
    positions: Iterable[int], paths: Sequence[str], root: Path, key: Callable[[Path], Hashable]
) -> list[list[int]]:
    """Groups of two and more with the same key."""
    found: dict[Hashable, list[int]] = defaultdict(list)
    for position in positions:
        try:
            value = key(root / paths[position])
        except OSError:
            continue
        found[value].append(position)
    return [group for group in found.values() if len(group) > 1]


def _size(path: Path) -> int:
    return os.stat(path).st_size


def _sample(path: Path) -> bytes:
    """The end, and the middle: beginnings are headers, which many files share."""
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - _SAMPLE))
        end = file.read(_SAMPLE)
        file.seek(size // 2)
        return hashlib.blake2b(end + file.read(_SAMPLE), digest_size=16).digest()


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
