"""Many encoded images to one array, kept on disk: a deployed client is a new process in every round.

The file is named by what it depends on (the images, their side, Pillow's version), so that a stale one is never read;
it is written beside and then renamed, so that a half-written one is never read either.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from common.data.decode import decode_image

__all__ = ["Encoded", "decode_all"]

_log = logging.getLogger("flwr")
_SHOWN = 5


@dataclass(frozen=True)
class Encoded:
    """An image not yet decoded."""

    name: str
    """For the log."""
    stamp: bytes
    """Differs wherever the image does."""
    open: Callable[[], Path | BytesIO]


def decode_all(
    items: Sequence[Encoded], side: int, cache: Path, transposed: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Decode images one by one, leaving out those that cannot be.

    Parameters
    ----------
    items
        The images; those that cannot be decoded are named in the log.
    side, transposed
        See `common.data.decode.decode_image`.
    cache
        Where the result is kept.

    Returns
    -------
    uint8 ``(k, side, side, 3)`` (a read-only memory map if the cache could be written), and the positions in ``items``
    of those decoded, int64 ``(k,)``.
    """
    key = hashlib.blake2b(f"{side}/{transposed}/{PIL.__version__}/{len(items)}".encode(), digest_size=16)
    for item in items:
        key.update(len(item.stamp).to_bytes(4, "little") + item.stamp)
    pixels, positions = (cache / "images" / f"{key.hexdigest()}{end}.npy" for end in ("", "-kept"))
    if not (pixels.is_file() and positions.is_file()):
        images, kept = _decode(items, side, transposed)
        try:
            _write(positions, kept)
            _write(pixels, images)
        except OSError:  # read-only or full disk: the cache saves time, nothing depends on it
            return images, kept
    return np.load(pixels, mmap_mode="r"), np.load(positions)


def _decode(items: Sequence[Encoded], side: int, transposed: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images = np.empty((len(items), side, side, 3), np.uint8)
    kept: list[int] = []
    broken: list[str] = []
    for position, item in enumerate(items):
        try:
            images[len(kept)] = decode_image(item.open(), side, transposed)
        except Exception as error:  # Pillow's readers raise many types; one bad file must not keep a site out
            broken.append(f"{item.name} ({type(error).__name__}: {error})")
        else:
            kept.append(position)
    if broken:
        more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        _log.warning(
            "%d of %d images cannot be read and are left out: %s%s",
            len(broken),
            len(items),
            "; ".join(broken[:_SHOWN]),
            more,
        )
    return images[: len(kept)], np.array(kept, dtype=np.int64)


def _write(path: Path, array: NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, array)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
