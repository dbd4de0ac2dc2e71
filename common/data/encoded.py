"""Many encoded images to one array, kept on disk: a deployed client is a new process in every round.

The file is named by what it depends on (the images, how they are decoded, Pillow's version), so that a stale one is
never read. Those used longest ago are removed when there are too many.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from common.data.decode import DECODER, decode_image
from common.data.information import shows_little
from common.data.pixel_range import PixelRange
from common.data.split import Images, part_identity
from common.errors import ConfigError
from common.files import CACHE_BYTES, evict, keep_array, kept_array

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
    items: Sequence[Encoded],
    side: int,
    cache: Path,
    transposed: bool = False,
    limit_bytes: int = CACHE_BYTES,
    pixel_range: PixelRange | None = None,
) -> Images:
    """Decode images one by one, leaving out those that cannot be.

    Parameters
    ----------
    items
        The images; those that cannot be decoded are named in the log.
    side, transposed, pixel_range
        See `common.data.decode.decode_image`.
    cache
        Where the result is kept.
    limit_bytes
        Size of all decoded images that are kept there.

    Returns
    -------
    Pixels uint8 ``(k, side, side, 3)``, a read-only memory map if the cache could be written; the positions in
    ``items`` of those decoded, int64 ``(k,)``; and an identity made of the stamps and of those positions.

    Raises
    ------
    ConfigError
        If an image needs a package that is not installed.
    """
    how = f"{DECODER}/{side}/{transposed}/{pixel_range}/{PIL.__version__}/{len(items)}"
    key = hashlib.blake2b(how.encode(), digest_size=16)
    for item in items:
        key.update(len(item.stamp).to_bytes(4, "little") + item.stamp)
    folder = cache / "images"
    pixels, positions = (folder / f"{key.hexdigest()}{end}.npy" for end in ("", "-kept"))
    images, kept = kept_array(pixels), kept_array(positions)
    if images is not None and kept is not None and len(images) == len(kept):
        return Images(images, kept, part_identity(key.digest(), kept))
    images, kept = _decode(items, side, transposed, pixel_range)
    identity = part_identity(key.digest(), kept)
    try:
        for path, array in ((positions, kept), (pixels, images)):
            keep_array(path, array)
    except OSError:  # read-only or full disk: the cache saves time, nothing depends on it
        return Images(images, kept, identity)
    evict(folder, limit_bytes, positions, pixels)
    mapped = kept_array(pixels)
    return Images(images if mapped is None else mapped, kept, identity)


def _decode(
    items: Sequence[Encoded], side: int, transposed: bool, pixel_range: PixelRange | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images = np.empty((len(items), side, side, 3), np.uint8)
    kept: list[int] = []
    broken: list[str] = []
    little: list[str] = []
    for position, item in enumerate(items):
        try:
            images[len(kept)] = decode_image(item.open(), side, transposed, pixel_range)
        except ConfigError:  # a package is missing here: no fault of the image
            raise
        except Exception as error:  # Pillow's readers raise many types; one bad file must not keep a site out
            broken.append(f"{item.name} ({type(error).__name__}: {error})")
        else:
            if shows_little(images[len(kept)]):
                little.append(item.name)
            kept.append(position)
    if little:
        _log.warning(
            "%d of %d images show next to nothing: blank, or of very low range, as 8-bit values in 16-bit files (%s)",
            len(little),
            len(items),
            little[0],
        )
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
