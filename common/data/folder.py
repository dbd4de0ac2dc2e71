"""Folders of images, a sub-folder for each class: ``PATH/cat/*.jpg``."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.data.encoded import Encoded, decode_all
from common.data.pixel_range import PixelRange
from common.data.split import Images, Split
from common.errors import DataError
from common.files import CACHE_BYTES

__all__ = ["SUFFIXES", "open_folder"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".dcm")
"""Files with other names are no images and not looked at."""


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

    A folder whose sub-folders are ``train`` and ``test``, and nothing else, holds both splits, each with its class
    folders. In any other all images are test images for the server, and training images for a site whose own it is.

    Parameters
    ----------
    root
        The folder. Hidden files and folders, and files that are no images by their name, are passed over; deeper
        folders belong to the class above.
    part
        ``train`` or ``test``.
    own
        The folder is one client's own.
    side, cache, limit_bytes, pixel_range
        See `common.data.encoded.decode_all`.

    Returns
    -------
    A split whose classes are the names of the sub-folders (in Unicode's form NFC, since systems differ), sorted.

    Raises
    ------
    DataError
        If there is no such folder, or no image in it.
    """
    if not root.is_dir():
        raise DataError(f"dataset: no folder at {root}")
    found = _folders(root)
    if sorted(found) == ["test", "train"]:
        root = root / part
        found = _folders(root)
    elif part == "train" and not own:
        raise DataError(
            f"dataset: {root} has no sub-folders train and test, so its images are the server's test images. Give this "
            "client images of its own: --node-config \"... data='folder:/path/to/images'\""
        )
    classes = tuple(sorted(found))
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = _images(found[name])
        files += images
        labels += [label] * len(images)
    if not files:
        raise DataError(
            f"dataset: no image in {root}; it needs a sub-folder for each class, with {', '.join(SUFFIXES)}"
        )

    def read(positions: NDArray[np.int64]) -> Images:
        items = [_encoded(files[position], root) for position in positions]
        return decode_all(items, side, cache, limit_bytes=limit_bytes, pixel_range=pixel_range)

    return Split(np.array(labels, dtype=np.int64), classes, read)


def _folders(root: Path) -> dict[str, Path]:
    paths = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return {unicodedata.normalize("NFC", path.name): path for path in paths}


def _images(folder: Path) -> list[Path]:
    """Image files of one class in an order that no file system decides."""
    found = []
    for directory, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(directory, name) for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _encoded(file: Path, root: Path) -> Encoded:
    name = file.relative_to(root).as_posix()
    try:
        status = file.stat()
        stamp = f"{file}/{status.st_size}/{status.st_mtime_ns}"
    except OSError:  # a dead link: broken, as decoding will find
        stamp = f"{file}/missing"
    return Encoded(name, os.fsencode(stamp), lambda: file)
