"""Pixels of more than 8 bits: what their values are in the file, and which of them are black and white.

Pillow hands on 16-bit grey as it is, scales that of PGM files, and drops the lower half of 16-bit colours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.data.pixel_range import PixelRange, to_bytes, unknown_range
from common.data.tiles import with_raw_mode

__all__ = ["Depth", "colours_16", "deep_to_bytes", "is_deep_grey", "pgm_depth"]

_LOWER = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGBA;16B": "RGBA;16L", "RGBA;16L": "RGBA;16B"}
"""Raw modes that take the upper byte of each sample, and those that take the other."""
_LOWER |= {"RGB;16N": "RGB;16B", "RGBA;16N": "RGBA;16B"} if np.little_endian else {}
_GREY_AND_ALPHA = {"LA;16B": "RGBA"}
"""Two samples, as their four bytes."""


@dataclass(frozen=True)
class Depth:
    """What a file states of its samples."""

    bits: int = 16
    """That they are stored in."""
    significant: int = 16
    """That they mean something by; the others are thought of as added when the file was written."""
    signed: bool = False
    limits: PixelRange | None = None
    """Of the values, where the file gives them."""
    scaled_from: int = 0
    """The largest value in the file, if Pillow has made 65535 of it; else 0."""


def is_deep_grey(image: Image.Image) -> bool:
    """Whether an image has one value of more than 8 bits for each pixel."""
    return image.mode.startswith("I") or image.mode == "F"


def deep_to_bytes(values: NDArray[Any], depth: Depth, wanted: PixelRange | None) -> NDArray[np.uint8]:
    """Scale values to bytes.

    Parameters
    ----------
    values
        Of any shape: uint16, int32 or float32, as Pillow has them.
    depth
        What the file states of them.
    wanted
        The range that the config gives, in values of the file; None takes what the file states, or all that its type
        can hold.

    Returns
    -------
    uint8, of the same shape.

    Raises
    ------
    DataError
        If nothing says the range of 32-bit or floating-point values.
    """
    if depth.bits == 32 and values.dtype == np.int32 and not depth.signed:
        values = values.view(np.uint32)
    if depth.scaled_from:
        values = np.rint(values * (depth.scaled_from / 65535)).astype(np.int32)
    return to_bytes(values, wanted or _limits(values, depth))


def _limits(values: NDArray[Any], depth: Depth) -> PixelRange:
    if values.dtype.kind == "f":
        raise unknown_range("floating-point")
    if depth.bits > 16:
        raise unknown_range(f"{depth.bits}-bit")
    if depth.limits is not None:
        return depth.limits
    if depth.scaled_from:
        return PixelRange(0, depth.scaled_from)
    if depth.signed:
        return PixelRange(-(2 ** (depth.bits - 1)), 2 ** (depth.bits - 1) - 1)
    return PixelRange(0, _largest(values, depth))


def _largest(values: NDArray[Any], depth: Depth) -> int:
    """White, of values from 0 on.

    The PNG specification has samples of fewer bits scaled up to those that they are stored in. Many writers leave them
    as they are. They are taken to be so where none is above the smaller range, and some are not what scaling gives.
    """
    full, small, spare = int(2**depth.bits - 1), int(2**depth.significant - 1), depth.bits - depth.significant
    if spare <= 0 or values.max(initial=0) > small:
        return full
    upper = values.astype(np.int64) >> spare
    given = (upper << spare == values) | (abs(upper * full - values.astype(np.int64) * small) <= small)
    return full if bool(given.all()) else small


def pgm_depth(image: Image.Image) -> Depth:
    """What an opened PGM file states: by the largest value, which is in its head, Pillow scales all to 16 bits."""
    for codec, _, _, args in getattr(image, "tile", []):
        if codec in ("ppm", "ppm_plain") and image.mode == "I":
            return Depth(scaled_from=int(args[1]))
    return Depth()


def colours_16(image: Image.Image, again: Callable[[], Image.Image]) -> NDArray[np.uint16] | None:
    """Both halves of 16-bit samples, of which Pillow shows the upper one.

    Parameters
    ----------
    image
        Opened and not yet loaded; it is loaded here, if the samples can be had.
    again
        Opens the same file once more, when the first is read.

    Returns
    -------
    ``(height, width, channels)`` with 2, 3 or 4 channels (grey or RGB, perhaps with alpha), or None for other images.
    """
    stored = {tile[3][0] if isinstance(tile[3], tuple) else tile[3] for tile in getattr(image, "tile", [])}
    raw = str(stored.pop()) if len(stored) == 1 else ""
    if raw in _GREY_AND_ALPHA:
        return _loaded(image, _GREY_AND_ALPHA[raw]).view(">u2").astype(np.uint16)
    if raw not in _LOWER:
        return None
    upper = _loaded(image, raw).astype(np.uint16)
    with again() as other:
        lower = _loaded(other, _LOWER[raw])
    return (upper << 8 | lower).astype(np.uint16, copy=False)


def _loaded(image: Image.Image, raw: str) -> NDArray[np.uint8]:
    image.tile = [with_raw_mode(tile, raw) for tile in getattr(image, "tile", [])]  # type: ignore[attr-defined]
    image.load()
    return np.array(image)
