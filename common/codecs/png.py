"""Bytes as a lossless 8-bit grayscale PNG (DeltaMask, section 3.2), written and read by Pillow.

Fingerprints are random, so PNG's line filters and string matches find nothing; what it does find are the 5-12 % empty
slots (zeros) of a binary fuse filter, through Huffman coding. The picture is a rectangle whose width is a power of two
near the square root.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.errors import BadImage

__all__ = ["check_png", "image_shape", "pack_png", "unpack_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_ROWS = (1 << 31) - 1
_PIECE = 1 << 13
"""Bytes inflated at a time, to at most a thousand times as many."""


def image_shape(size: int) -> tuple[int, int]:
    """Height and width of the image that holds ``size`` bytes without padding: the width is the largest power of two
    that divides ``size`` and is not above its square root (at least 1).
    """
    width = 1
    while size % (2 * width) == 0 and 4 * width * width <= size:
        width *= 2
    return size // width, width


def pack_png(data: NDArray[np.uint8]) -> bytes:
    """Write bytes (uint8 ``(size,)``, size above 0) as one grayscale PNG."""
    height, width = image_shape(len(data))
    # Huffman only: there are no repeats to find, and zlib spends its time looking for them.
    buffer = io.BytesIO()
    Image.fromarray(data.reshape(height, width)).save(buffer, "PNG", compress_type=zlib.Z_HUFFMAN_ONLY)
    return buffer.getvalue()


def check_png(png: bytes, size: int) -> None:
    """Check that a PNG is laid out as `pack_png` does it and inflates to exactly ``size`` bytes, without keeping them.

    Only one IHDR with the only size, depth and colour type allowed, IDAT chunks, and IEND: no text chunk, palette,
    animation or oversized image. Image data are inflated piece by piece, so that the memory taken follows from the
    bytes that are there, and not from the numbers in them.

    Raises
    ------
    BadImage
        On anything else.
    """
    height, width = image_shape(size)
    if height > _MOST_ROWS:
        raise BadImage(f"an image of {width} x {height} is more than a PNG can hold")
    ihdr = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    if not png.startswith(_SIGNATURE):
        raise BadImage("no PNG signature")
    at, names, pieces = len(_SIGNATURE), [], []
    while at < len(png):
        if at + 12 > len(png):
            raise BadImage("a chunk is cut off")
        length, name = struct.unpack_from(">I4s", png, at)
        if at + 12 + length > len(png):
            raise BadImage(f"chunk {name!r} is cut off")
        if name == b"IHDR" and png[at + 8 : at + 8 + length] != ihdr:
            raise BadImage(f"the image is not 8-bit grayscale of {width} x {height}")
        if name == b"IDAT":
            pieces.append(png[at + 8 : at + 8 + length])
        names.append(name)
        at += 12 + length
    if len(names) < 3 or names[0] != b"IHDR" or names[-1] != b"IEND" or set(names[1:-1]) != {b"IDAT"}:
        raise BadImage(f"chunks {names[:8]}; expected IHDR, IDAT, IEND")
    # Pillow fills missing rows with zeros and ignores surplus ones: count the bytes first.
    rows, found, stream = height * (width + 1), 0, b"".join(pieces)
    inflater = zlib.decompressobj()
    try:
        for start in range(0, len(stream), _PIECE):
            found += len(inflater.decompress(stream[start : start + _PIECE]))
            if found > rows or inflater.eof:
                break
    except zlib.error as error:
        raise BadImage(f"the image data cannot be inflated: {error}") from error
    if found != rows or not inflater.eof:
        raise BadImage(f"the image data are not {rows} bytes")


def unpack_png(png: bytes, size: int) -> NDArray[np.uint8]:
    """Read a PNG that must hold exactly ``size`` bytes as `pack_png` lays them out; Pillow sees only what `check_png`
    lets pass.

    Raises
    ------
    BadImage
        On anything else.
    """
    check_png(png, size)
    height, width = image_shape(size)
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            data = np.asarray(image)
    except Exception as error:  # Pillow raises many types on damaged data
        raise BadImage(f"Pillow cannot read the image: {type(error).__name__}") from error
    if data.shape != (height, width) or data.dtype != np.uint8:
        raise BadImage(f"the image decodes to {data.dtype} {data.shape}")
    return data.reshape(-1)
