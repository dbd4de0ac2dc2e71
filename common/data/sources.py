"""Where images come from, by the value of ``dataset`` or ``data``: built in, a file, a folder, or the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.data.catalogue import HUB, SOURCES
from common.data.folder import open_folder
from common.data.hub import open_hub
from common.data.split import Split, numbered
from common.errors import DataError

__all__ = ["is_local", "open_split"]

_DIGITS_TEST = 450


def open_split(source: str, part: Literal["train", "test"], side: int, cache: Path, *, own: bool = False) -> Split:
    """Open one split of a dataset by its config value. Labels are read now, images when they are asked for.

    Parameters
    ----------
    source
        ``digits``: 1,797 handwritten digits of 8 x 8 pixels (Alpaydin, Kaynak 1998), the last 450 for testing: they
        come from other writers than the first ones. ``npz:PATH``: a NumPy archive without pickled objects.
        ``folder:PATH``: see `common.data.folder.open_folder`. A key of `common.data.catalogue.HUB`.
    part
        ``train`` or ``test``.
    side
        Side that images of different sizes are brought to, pixels. Those of ``digits``, ``.npz`` files and hub datasets
        of one size stay as they are.
    cache
        Folder where decoded images are kept.
    own
        The source is one client's own, all of it: test images need not be there.

    Raises
    ------
    DataError
        If it is missing or not of the expected form.
    """
    if source == "digits":
        return _digits(part)
    if source.startswith("npz:"):
        return _npz(_path(source), part, own)
    if source.startswith("folder:"):
        return open_folder(_path(source), part, own, side, cache)
    if source in HUB:
        return open_hub(source, part, side, cache)
    raise DataError(f"dataset = {source!r}: use {SOURCES}")


def is_local(source: str) -> bool:
    """Whether the source is a file or folder of this machine, which may be missing or odd, and is quick to look at."""
    return source.startswith(("npz:", "folder:"))


def _path(source: str) -> Path:
    return Path(source.partition(":")[2]).expanduser().resolve()


def _digits(part: str) -> Split:
    from sklearn.datasets import load_digits  # here, since it takes seconds to import

    images, labels = load_digits(return_X_y=True)
    # Values are 0..16; the division is exact enough for a byte and the same everywhere.
    pixels = np.minimum(images * 16, 255).astype(np.uint8).reshape(-1, 8, 8)
    where = slice(None, -_DIGITS_TEST) if part == "train" else slice(-_DIGITS_TEST, None)
    return _of_arrays(pixels[where], labels[where].astype(np.int64), 10)


def _of_arrays(images: NDArray[np.uint8], labels: NDArray[np.int64], classes: int) -> Split:
    return Split(labels, numbered(classes), lambda index: (images[index], np.arange(len(index))), numbered=True)


def _npz(path: Path, part: str, own: bool) -> Split:
    if not path.is_file():
        raise DataError(f"dataset: no file at {path}")
    parts = ("train",) if own else ("train", "test")
    needed = [f"{kind}_{of}" for of in parts for kind in "xy"]
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in needed if key not in archive]
            if missing:
                raise DataError(f"dataset: {path} has no {', '.join(missing)}; it needs {', '.join(needed)}")
            labels = {of: archive[f"y_{of}"] for of in parts}
            images = archive[f"x_{part}"]
    except (OSError, ValueError) as error:
        raise DataError(f"dataset: {path} cannot be read: {error}") from error
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)):
        raise DataError(
            f"dataset: x_{part} of {path} is {images.dtype} {images.shape}; uint8 (n, h, w) or (n, h, w, 3) is needed"
        )
    for of, values in labels.items():
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer) or values.min(initial=0) < 0:
            raise DataError(
                f"dataset: y_{of} of {path} is {values.dtype} {values.shape}; integers (n,) from 0 on needed"
            )
    if len(labels[part]) != len(images):
        raise DataError(f"dataset: y_{part} of {path} has {len(labels[part])} labels for {len(images)} images")
    if len(images) == 0:
        raise DataError(f"dataset: {path} holds no {part} images")
    classes = 1 + max(int(values.max(initial=0)) for values in labels.values())
    return _of_arrays(images, labels[part].astype(np.int64), classes)
