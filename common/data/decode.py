"""One image file to pixels: any size and mode becomes a square of 8-bit RGB.

Formats differ in what Pillow has done by the time an image is loaded: it turns TIFF files upright and others not,
scales some samples and cuts others off. So what is to be done is asked of the loaded image, or of the file itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.data.deep import Depth, colours_16, deep_to_bytes, is_deep_grey, pgm_depth
from common.data.dicom import DICOM_HEAD, is_dicom, read_dicom
from common.data.pixel_range import PixelRange
from common.data.png import PNG, Png, read_png
from common.data.tiff import Tiff, is_tiff, mend, read_tiff, tiff_depth
from common.errors import DataError

__all__ = ["DECODER", "MAX_PIXELS", "decode_image"]

DECODER = 2
"""Raised with every change to what an image becomes: decoded ones are kept on disk under this number."""
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
_SIGN = 0x80
"""What lies between a signed byte from the lowest on, and the unsigned one that Pillow takes it for."""


def decode_image(
    file: Path | BinaryIO, side: int, transposed: bool = False, pixel_range: PixelRange | None = None
) -> NDArray[np.uint8]:
    """Decode, turn upright, and fit to a square.

    The central square is cut out and resized with an antialiased bicubic filter: what resizing the shorter side and
    cropping the centre shows (timm's evaluation transform with ``crop_pct`` 1: our choice, the most of each image).
    Transparent pixels become white, as on paper. docs/data.md has what is done to each format and mode.

    Parameters
    ----------
    file
        Path or open file. Of animations and multi-page files the first image counts.
    side
        Side of the square, pixels.
    transposed
        Rows and columns are exchanged in the file.
    pixel_range
        Values that are black and white, for pixels of more than 8 bits; None takes what the file states, else the full
        range of 12 or 16 bits.

    Returns
    -------
    uint8 ``(side, side, 3)``.

    Raises
    ------
    DataError
        If it has more than `MAX_PIXELS`, or values without a known range.
    ConfigError
        If it is a DICOM file, and pydicom is not installed.
    Exception
        Whatever Pillow or pydicom raises for damaged files; there is no common base.
    """
    with file.open("rb") if isinstance(file, Path) else nullcontext(file) as source:
        start = source.read(DICOM_HEAD)
        source.seek(0)
        if is_dicom(start):
            upright = read_dicom(source, MAX_PIXELS, pixel_range).convert("RGB")
        else:
            upright = _read(source, start, side, pixel_range)
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


def _read(source: BinaryIO, start: bytes, side: int, wanted: PixelRange | None) -> Image.Image:
    """In mode RGB, and upright."""
    png, tiff = Png(), Tiff()
    if start.startswith(PNG):
        source, png = read_png(source)
    elif is_tiff(start):
        source, tiff = read_tiff(source)

    def opened() -> Image.Image:
        source.seek(0)
        image = Image.open(source, formats=_FORMATS)
        if image.format == "TIFF":
            mend(image, tiff)
        return image

    with opened() as image:
        if image.width * image.height > MAX_PIXELS:
            raise DataError(f"{image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are decoded")
        image.draft(
            None, (2 * side, 2 * side)
        )  # JPEGs of photos decode several times faster at a half, quarter or eighth
        depth = _depth(image, png, tiff)
        halves = colours_16(image, opened) if wanted or png.clear or depth != Depth() else None
        image.load()
        turn = _UPRIGHT.get(_orientation(image))  # after loading: where Pillow has turned it, it says so by now
        if halves is not None:
            picture = _from_16(halves, depth, wanted, png.clear)
        elif is_deep_grey(image):
            picture = _from_16(np.asarray(image)[..., None], depth, wanted, png.clear, tiff.white_is_zero)
        else:
            picture = _from_8(image, png, tiff)
    return picture if turn is None else picture.transpose(turn)


def _depth(image: Image.Image, png: Png, tiff: Tiff) -> Depth:
    if image.format == "PNG" and png.bits == 16:
        return Depth(significant=png.significant)
    if image.format == "TIFF":
        return tiff_depth(image, tiff)
    return pgm_depth(image) if image.format == "PPM" else Depth()


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # metadata alone is damaged: the image is as good as one without
        return 1


def _from_16(
    values: NDArray[Any], depth: Depth, wanted: PixelRange | None, clear: tuple[int, ...], white_is_zero: bool = False
) -> Image.Image:
    """From samples ``(height, width, channels)``; a second or fourth one is alpha."""
    colours = 3 if values.shape[2] > 2 else 1
    pixels = deep_to_bytes(values[..., :colours], depth, wanted)
    if white_is_zero:
        pixels = 255 - pixels
    alpha = (values[..., colours] >> 8).astype(np.uint8) if values.shape[2] > colours else None
    if clear:
        alpha = _alpha(values, clear)
    return _on_white(Image.fromarray(pixels if colours == 3 else pixels[..., 0]).convert("RGB"), alpha)


def _from_8(image: Image.Image, png: Png, tiff: Tiff) -> Image.Image:
    if image.mode == "La":  # Pillow takes it to no colours
        image = image.convert("LA")
    if png.clear:  # in samples of the file, where Pillow may have scaled those of the image
        image.info.pop("transparency", None)
        pixels = np.asarray(image.convert("RGB" if len(png.clear) == 3 else "L"))
        scale = 255 // (2**png.bits - 1) if png.bits <= 8 else 1
        solid = _alpha(pixels.reshape(*pixels.shape[:2], -1), [sample * scale for sample in png.clear])
        return _on_white(image.convert("RGB"), solid)
    alpha: NDArray[np.uint8] | None = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.asarray(image)[..., 3]
    pixels = np.asarray(image.convert("RGB"))
    if tiff.signed and tiff.bits == 8:
        pixels = pixels ^ np.uint8(_SIGN)
    return _on_white(Image.fromarray(255 - pixels if tiff.white_is_zero else pixels), alpha)


def _alpha(values: NDArray[Any], clear: Sequence[int]) -> NDArray[np.uint8]:
    return np.where((values == np.array(clear)).all(axis=2), np.uint8(0), np.uint8(255))


def _on_white(picture: Image.Image, alpha: NDArray[np.uint8] | None) -> Image.Image:
    if alpha is None:
        return picture
    picture.putalpha(Image.fromarray(alpha))
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
