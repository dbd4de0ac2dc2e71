"""One picture in every format and mode: as the pixels that it must become, and as files that hold it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16


def picture() -> NDArray[np.uint8]:
    """Grey ``(16, 16)`` in steps of 17, darker to the left and at the top: no turn leaves it as it is.

    It is smooth, so that lossy formats keep it, and its values exist in 4 bits, so that small depths do.
    """
    down, across = np.mgrid[0:SIDE, 0:SIDE]
    return ((down + 2 * across) // 3 * 17).astype(np.uint8)


def bits() -> NDArray[np.bool_]:
    """The picture in black and white: two sides of an uneven corner."""
    return picture() > 100


def colours() -> NDArray[np.uint8]:
    """``(16, 16, 3)``: the picture, its mirror image, and a constant."""
    grey = picture()
    return np.stack([grey, grey[:, ::-1], np.full_like(grey, 136)], axis=2)


def half_clear() -> NDArray[np.uint8]:
    """Alpha ``(16, 16)``: the upper third is clear, the rest is solid."""
    alpha = np.full((SIDE, SIDE), 255, np.uint8)
    alpha[: SIDE // 3] = 0
    return alpha


def on_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What is left of pixels behind `half_clear`."""
    shown = pixels.copy()
    shown[half_clear() == 0] = 255
    return shown


def turned(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Pixels as they are stored under an orientation, after the drawings of the EXIF standard."""
    swapped = np.swapaxes(upright, 0, 1)
    return np.ascontiguousarray(
        {
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: swapped,
            6: swapped[::-1],  # to be turned clockwise
            7: swapped[::-1, ::-1],
            8: swapped[:, ::-1],
        }[orientation]
    )


def saved(image: Image.Image, format: str = "PNG", **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, format, **options)
    file.seek(0)
    return file


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def xmp(orientation: int) -> bytes:
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    pixels: NDArray[np.generic], colour: int = 0, chunks: Sequence[bytes] = (), after: Sequence[bytes] = ()
) -> bytes:
    """A PNG of 8 or 16 bits, with more chunks before and after those of the pixels."""
    height, width = pixels.shape[:2]
    depth = 8 * pixels.dtype.itemsize
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *chunks, chunk(b"IDAT", zlib.compress(data)), *after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


_SIZES = {3: "H", 4: "I", 12: "d"}
_DEFLATE = 8


def tiff(
    pixels: NDArray[np.generic],
    order: str = "<",
    photometric: int = 1,
    sample_format: int = 0,
    packed: bool = False,
    planes: bool = False,
    tags: Sequence[tuple[int, int, Sequence[float]]] = (),
    bits: int = 0,
) -> bytes:
    """A TIFF in either order of bytes, with other tags (number, type, values) besides; ``bits`` of packed rows."""
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    stored = np.moveaxis(pixels, 2, 0) if planes else pixels
    data = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    depth = bits or 8 * pixels.dtype.itemsize
    width = width * 8 * pixels.dtype.itemsize // depth
    data = zlib.compress(data) if packed else data
    strips = channels if planes else 1
    entries = [
        *((256, 3, [width]), (257, 3, [height]), (258, 3, [depth] * channels), (259, 3, [_DEFLATE if packed else 1])),
        *((262, 3, [photometric]), (273, 4, [0] * strips), (277, 3, [channels]), (278, 3, [height])),
        *((279, 4, [len(data) // strips] * strips), (284, 3, [2 if planes else 1])),
        *tags,
    ]
    if sample_format:
        entries.append((339, 3, [sample_format] * channels))
    entries.sort(key=lambda entry: entry[0])
    sizes = [len(values) * struct.calcsize(_SIZES[kind]) for _, kind, values in entries]
    beside = 8 + 2 + 12 * len(entries) + 4
    start = beside + sum(size for size in sizes if size > 4)
    table, values_beside = b"", b""
    for (tag, kind, values), size in zip(entries, sizes, strict=True):
        if tag == 273:
            values = [start + strip * (len(data) // strips) for strip in range(strips)]
        packed_values = struct.pack(order + _SIZES[kind] * len(values), *values)
        table += struct.pack(order + "HHI", tag, kind, len(values))
        if size > 4:
            table += struct.pack(order + "I", beside + len(values_beside))
            values_beside += packed_values
        else:
            table += packed_values.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    return head + table + bytes(4) + values_beside + data
