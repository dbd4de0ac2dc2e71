"""Folders of images, a sub-folder for each class: ``PATH/cat/*.jpg``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.data.encoded import Encoded, decode_all
from common.data.inventory import NO_CLASS, OTHER_SPLIT, Inventory
from common.data.layout import Layout, find_layout
from common.data.names import check_names
from common.data.pixel_range import PixelRange
from common.data.split import Images, Split
from common.data.tree import walk, why_unread
from common.errors import DataError, brief
from common.files import CACHE_BYTES

__all__ = ["open_folder"]


def open_folder(
    root: Path,
    part: str,
    own: bool,
    side: int,
    cache: Path,
    limit_bytes: int = CACHE_BYTES,
    pixel_range: PixelRange | None = None,
) -> Split:
    """List a folder; images are decoded when they are asked for.

    A folder whose sub-folders are named as splits (`common.data.layout`) holds each of them, with its class folders. In
    any other all images are test images for the server, and training images for a site whose own it is.

    Parameters
    ----------
    root
        The folder. Files are images by what is in them (`common.data.signatures`), whatever their names; deeper folders
        belong to the class above, and what is passed over is counted.
    part
        ``train`` or ``test``.
    own
        The folder is one client's own.
    side, cache, limit_bytes, pixel_range
        See `common.data.encoded.decode_all`.

    Returns
    -------
    A split with an inventory, whose classes are the names of the sub-folders that have images (in Unicode's form NFC,
    since systems differ), sorted.

    Raises
    ------
    DataError
        If there is no such folder, or no image in it; if its sub-folders may be splits or classes; if the name of a
        class cannot travel.
    """
    if not root.is_dir():
        raise DataError(f"dataset: no folder at {root}")
    tree = walk(root)
    reasons = {entry.relative: why_unread(root, entry) for entry in tree.entries}
    images = [entry for entry in tree.entries if not reasons[entry.relative]]
    layout = find_layout(root, part, own, tree.folders, images)
    classes = tuple(layout.classes)
    check_names(classes, str(root))
    label_of = {folder: label for label, name in enumerate(classes) for folder in layout.classes[name]}
    used: list[tuple[int, str, str]] = []  # class, path within its folder, path below the root
    for entry in images:
        place = _place(entry.relative, layout)
        if place is None:
            other = layout.folder and "/" in entry.relative and not entry.relative.startswith(layout.folder)
            reasons[entry.relative] = OTHER_SPLIT if other else NO_CLASS
        else:
            used.append((label_of[place[0]], place[1], entry.relative))
    used.sort()  # an order that no file system decides
    inventory = _inventory(root, layout, used, reasons)
    if not used:
        raise DataError(
            f"dataset: no image in {root / layout.folder}; it needs a sub-folder for each class, with files of JPEG, "
            f"PNG, GIF, BMP, WebP, TIFF, PPM, PGM or DICOM. Passed over: {inventory.passed_over_text()}"
        )
    files = [root / path for path in inventory.used]

    def read(positions: NDArray[np.int64]) -> Images:
        items = [_encoded(files[position], root) for position in positions]
        return decode_all(items, side, cache, limit_bytes=limit_bytes, pixel_range=pixel_range)

    return Split(np.array(inventory.labels, dtype=np.int64), classes, read, inventory=inventory)


def _place(relative: str, layout: Layout) -> tuple[str, str] | None:
    """Class folder of an image, and its path in there."""
    if not relative.startswith(layout.folder):
        return None
    folder, slash, within = relative.removeprefix(layout.folder).partition("/")
    return (folder, within) if slash else None


def _inventory(root: Path, layout: Layout, used: Sequence[tuple[int, str, str]], reasons: dict[str, str]) -> Inventory:
    passed_over = {path: reason for path, reason in sorted(reasons.items(), reverse=True) if reason}
    deeper = [os.path.dirname(path) for _, within, path in used if "/" in within]
    return Inventory(
        root=root,
        used=tuple(path for _, _, path in used),
        labels=tuple(label for label, _, _ in used),
        passed_over=Counter(passed_over.values()),
        examples={reason: path for path, reason in passed_over.items()},  # the first by name
        deeper=len(deeper),
        deeper_folders=tuple(sorted(set(deeper))),
        merged=tuple(names for names in layout.classes.values() if len(names) > 1),
        empty=layout.empty,
    )


def _encoded(file: Path, root: Path) -> Encoded:
    name = brief(file.relative_to(root).as_posix())
    try:
        status = file.stat()
        stamp = f"{file}/{status.st_size}/{status.st_mtime_ns}"
    except OSError:  # removed meanwhile: broken, as decoding will find
        stamp = f"{file}/missing"
    return Encoded(name, os.fsencode(stamp), lambda: file)
