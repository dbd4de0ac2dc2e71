"""Where images come from, by the value of ``dataset`` or ``data``: built in, a file, a folder, or the hub."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

from common.data.catalogue import HUB, SOURCES
from common.data.folder import open_folder
from common.data.hub import open_hub
from common.data.npz import open_npz
from common.data.pixel_range import PixelRange
from common.data.split import Split, split_of_arrays
from common.errors import DataError
from common.extras import require
from common.files import CACHE_BYTES

__all__ = ["is_local", "open_split"]

_DIGITS_TEST = 450


def open_split(
    source: str,
    part: Literal["train", "test"],
    side: int,
    cache: Path,
    *,
    own: bool = False,
    limit_bytes: int = CACHE_BYTES,
    pixel_range: PixelRange | None = None,
) -> Split:
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
        Folder where decoded images and unpacked arrays are kept.
    own
        The source is one client's own, all of it: test images need not be there.
    limit_bytes
        Size of the decoded images, and of the unpacked arrays, that are kept there.
    pixel_range
        What is black and white in image files of more than 8 bits, see `common.data.decode.decode_image`. ``digits``
        and ``.npz`` files have none.

    Raises
    ------
    DataError
        If it is missing or not of the expected form.
    """
    if source == "digits":
        return _digits(part)
    if source.startswith("npz:"):
        return open_npz(_path(source), part, own, cache, limit_bytes)
    if source.startswith("folder:"):
        return open_folder(_path(source), part, own, side, cache, limit_bytes, pixel_range)
    if source in HUB:
        return open_hub(source, part, side, cache, limit_bytes, pixel_range)
    raise DataError(f"dataset = {source!r}: use {SOURCES}")


def is_local(source: str) -> bool:
    """Whether the source is a file or folder of this machine, which may be missing or odd, and is quick to look at."""
    return source.startswith(("npz:", "folder:"))


def _path(source: str) -> Path:
    return Path(source.partition(":")[2]).expanduser().resolve()


def _digits(part: str) -> Split:
    digits = require("sklearn.datasets", "digits", "dataset = 'digits'")  # here, since it takes seconds to import
    images, labels = digits.load_digits(return_X_y=True)
    # Values are 0..16; the division is exact enough for a byte and the same everywhere.
    pixels = np.minimum(images * 16, 255).astype(np.uint8).reshape(-1, 8, 8)
    where = slice(None, -_DIGITS_TEST) if part == "train" else slice(-_DIGITS_TEST, None)
    identity = f"digits/{part}/scikit-learn {version('scikit-learn')}".encode()
    return split_of_arrays(pixels[where], labels[where].astype(np.int64), 10, identity)
