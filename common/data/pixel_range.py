"""Which values are black and white, where values are more than bytes: ``auto``, or two numbers as ``0..4095``."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic_core import PydanticCustomError

from common.errors import DataError

__all__ = ["AUTO", "PixelRange", "known_pixel_range", "read_pixel_range", "to_bytes", "unknown_range"]

AUTO = "auto"
_BLOCK = 1 << 20
"""Values that are scaled at a time: as 64-bit floats they take four times the memory of 16-bit pixels."""


class PixelRange(NamedTuple):
    """From black to white, both finite, the first below the second."""

    low: float
    high: float


def read_pixel_range(text: str) -> PixelRange | None:
    """Read the config value.

    Returns
    -------
    None for ``auto``: what the file states.

    Raises
    ------
    ValueError
        If it is neither that nor two finite numbers, the first below the second.
    """
    if text.strip() == AUTO:
        return None
    first, _, second = text.partition("..")
    found = PixelRange(float(first), float(second))
    if not (math.isfinite(found.low) and math.isfinite(found.high - found.low) and found.low < found.high):
        raise ValueError(text)
    return found


def known_pixel_range(text: str) -> str:
    """The text, if `read_pixel_range` takes it; otherwise an error that pydantic shows."""
    try:
        read_pixel_range(text)
    except ValueError:
        raise PydanticCustomError(
            "pixel_range", "choose auto, or two numbers as in 0..4095 or -160..240, black first, the lower one"
        ) from None
    return text


def to_bytes(values: NDArray[Any], limits: PixelRange) -> NDArray[np.uint8]:
    """Scale values to 0 .. 255, to the nearest; those outside are clipped, and what is no number is black.

    Parameters
    ----------
    values
        Numbers of any type and shape.
    limits
        What becomes 0 and 255.

    Returns
    -------
    uint8, of the same shape.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    scaled = np.empty(flat.shape, np.uint8)
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK].astype(np.float64)
        block = np.clip(np.nan_to_num(block, nan=limits.low, posinf=np.inf, neginf=-np.inf), *limits)
        scaled[start : start + _BLOCK] = np.rint((block - limits.low) / (limits.high - limits.low) * 255)
    return scaled.reshape(values.shape)


def unknown_range(what: str) -> DataError:
    """The error of pixels that have no range by themselves, such as ``floating-point``."""
    return DataError(f"{what} pixels have no known range; set pixel-range to what is black and white, as in '0..4095'")
