"""TIFF files as far as Pillow's versions differ in them, or cannot tell: what a sample is, and whether white is zero.

Tags are those of TIFF 6.0 (Adobe 1992), and of BigTIFF.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImagePalette

from common.data.deep import Depth
from common.data.pixel_range import PixelRange
from common.data.spliced import spliced
from common.data.tiles import with_raw_mode

__all__ = ["Tiff", "is_tiff", "mend", "read_tiff", "tiff_depth"]

_BITS, _PHOTOMETRIC, _COLOUR_MAP, _FORMAT, _SMALLEST, _LARGEST = 258, 262, 320, 339, 340, 341
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _YCBCR = 0, 1, 6
_UNSIGNED, _SIGNED = 1, 2
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
"""What Pillow takes the samples for that libtiff has unpacked, and what they are: libtiff has ordered their bytes."""


@dataclass(frozen=True)
class Tiff:
    """What a file states of its samples."""

    bits: int = 0
    """Of each one."""
    signed: bool = False
    white_is_zero: bool = False
    big_endian: bool = False


@dataclass(frozen=True)
class _Tag:
    place: int
    form: str
    value: int


def is_tiff(start: bytes) -> bool:
    """Whether a file begins as one."""
    return start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_tiff(file: BinaryIO) -> tuple[BinaryIO, Tiff]:
    """Read the tags of the first image.

    Parameters
    ----------
    file
        For which `is_tiff` holds.

    Returns
    -------
    The file as Pillow should see it, and what it states. Grey in which white is zero is shown to Pillow as grey
    in which black is: it undoes that for some depths and byte orders, passes over it for others, and does not know the
    rest.
    """
    try:
        tags, order = _tags(file)
    except struct.error:  # cut off, as Pillow will find
        return file, Tiff()
    bits, form, photometric = (tags.get(tag) for tag in (_BITS, _FORMAT, _PHOTOMETRIC))
    depth = bits.value if bits else 1
    stated = Tiff(
        depth,
        form is not None and form.value == _SIGNED,
        photometric is not None and photometric.value == _WHITE_IS_ZERO,
        order == ">",
    )
    changes: list[tuple[_Tag, int]] = []
    if photometric is not None and stated.white_is_zero:
        changes.append((photometric, _BLACK_IS_ZERO))
    if form is not None and (depth, order, form.value) == (32, ">", _UNSIGNED):
        changes.append((form, _SIGNED))  # the only big-endian integers of 32 bits that Pillow knows
    if not changes:
        return file, stated
    parts: list[tuple[int, int] | bytes] = []
    position = 0
    for tag, value in sorted(changes, key=lambda change: change[0].place):
        data = struct.pack(order + tag.form, value)
        parts += [(position, tag.place), data]
        position = tag.place + len(data)
    return spliced(file, [*parts, (position, file.seek(0, 2))]), stated


def mend(image: Image.Image, stated: Tiff) -> None:
    """Tell Pillow what it would misread in silence: some samples, and a palette of 8 bits in fields of 16.

    Parameters
    ----------
    image
        Opened and not yet loaded.
    stated
        What its file states.
    """
    tiles = []
    for tile in getattr(image, "tile", []):
        raw = tile[3][0]
        if tile[0] == "libtiff":
            raw = _NATIVE.get(raw, raw)
        elif raw == "RGBX" and _value(image, _PHOTOMETRIC) == _YCBCR:  # to Pillow 12, as if libtiff had unpacked it
            image._mode = raw = "YCbCr"
        elif _bits(image) == 16 and len(raw) == 1 and image.mode in ("RGB", "RGBA"):  # one colour after another
            raw = f"{raw};16{'B' if stated.big_endian else 'L'}"
        tiles.append(with_raw_mode(tile, raw))
    image.tile = tiles  # type: ignore[attr-defined]
    palette = _value(image, _COLOUR_MAP)
    if image.mode in ("P", "PA") and palette and 0 < max(palette) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(palette))


def tiff_depth(image: Image.Image, stated: Tiff) -> Depth:
    """What the file of an opened image states of samples of more than 8 bits."""
    bits = _bits(image)
    if bits <= 8:
        return Depth()
    low, high = _value(image, _SMALLEST), _value(image, _LARGEST)
    limits = None
    if high is not None:
        least = -(2 ** (bits - 1)) if stated.signed else 0
        limits = PixelRange(float(np.min(low) if low is not None else least), float(np.max(high)))
        limits = limits if math.isfinite(limits.high - limits.low) and limits.low < limits.high else None
    return Depth(bits, bits, stated.signed, limits)


def _bits(image: Image.Image) -> int:
    return int(np.max(_value(image, _BITS) or (1,)))


def _value(image: Image.Image, tag: int) -> Any:
    return image.tag_v2.get(tag)  # type: ignore[attr-defined]


def _tags(file: BinaryIO) -> tuple[dict[int, _Tag], str]:
    """Those with one whole number, or several that are stored with the tag, of which the first counts."""
    file.seek(0)
    start = file.read(16)
    order = "<" if start[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", start, 2)[0] == 43
    (position,) = struct.unpack_from(order + ("Q" if big else "I"), start, 8 if big else 4)
    if position >= 2**63:  # no file is so large, and the system takes no such number
        raise struct.error
    file.seek(position)
    count_form, entry_form, room = ("Q", "HHQ", 8) if big else ("H", "HHI", 4)
    (count,) = struct.unpack(order + count_form, file.read(struct.calcsize(count_form)))
    position += struct.calcsize(count_form)
    size = struct.calcsize(order + entry_form) + room
    entries = file.read(min(count, 65535) * size)
    tags: dict[int, _Tag] = {}
    for start_of in range(0, len(entries) - size + 1, size):
        tag, kind, number = struct.unpack_from(order + entry_form, entries, start_of)
        form = _INTEGERS.get(kind)
        if form is not None and 0 < number * struct.calcsize(form) <= room:
            within = start_of + size - room
            tags[tag] = _Tag(position + within, form, struct.unpack_from(order + form, entries, within)[0])
    return tags, order
