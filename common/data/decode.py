"""One image file to pixels: any size and mode becomes a square of 8-bit RGB."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.errors import DataError

__all__ = ["MAX_PIXELS", "decode_image"]

MAX_PIXELS = 89_478_485
"""Larger images are not decoded (256 MiB as RGB; Pillow warns from there on): a small file can claim any size."""

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Nothing else is tried: some of Pillow's readers start other programs."""
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation but the first."""


def decode_image(file: Path | BinaryIO, side: int, transposed: bool = False) -> NDArray[np.uint8]:
    """Decode, turn upright, and fit to a square.

    The central square is cut out and resized with an antialiased bicubic filter: what resizing the shorter side and
    cropping the centre shows (timm's evaluation transform with ``crop_pct`` 1: our choice, the most of each image).
    Transparent pixels become white, as on paper; 16 bits are scaled to 8 over their full range.

    Parameters
    ----------
    file
        Path or open file. Of animations and multi-page files the first image counts.
    side
        Side of the square, pixels.
    transposed
        Rows and columns are exchanged in the file.

    Returns
    -------
    uint8 ``(side, side, 3)``.

    Raises
    ------
    DataError
        If it has more than `MAX_PIXELS`, or values without a known range.
    Exception
        Whatever Pillow raises for damaged files; there is no common base.
    """
    with Image.open(file, formats=_FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise DataError(f"{image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are decoded")
        image.draft(
            None, (2 * side, 2 * side)
        )  # JPEGs of photos decode several times faster at a half, quarter or eighth
        turn = _UPRIGHT.get(_orientation(image))
        upright = _to_rgb(image)
    if turn is not None:
        upright = upright.transpose(turn)
    if transposed:
        upright = upright.transpose(Image.Transpose.TRANSPOSE)
    width, height = upright.size
    if (width, height) != (side, side):
        short = min(width, height)
        left, top = (width - short) / 2, (height - short) / 2
        upright = upright.resize(
            (side, side), Image.Resampling.BICUBIC, box=(left, top, left + short, top + short), reducing_gap=3.0
        )
    return np.asarray(upright)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # metadata alone is damaged: the image is as good as one without
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f"mode {image.mode} with values {values.min()} .. {values.max()}; 0 .. 65535 is known")
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DataError("floating-point pixels have no known range; save them as 8 or 16 bits")
    if image.has_transparency_data:
        solid = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", solid.size, "white"), solid).convert("RGB")
    return image.convert("RGB")
