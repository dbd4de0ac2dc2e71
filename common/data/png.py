"""PNG files as far as their pixels need them: what else is in a file can keep no image out.

Pillow reads every chunk, and gives an image up for texts or colour profiles of more than a megabyte, for damaged ones,
and for animations out of order, although its pixels are fine. So it is given the chunks without which an image cannot
be shown, and of the others those that say which way up it is. Chunks are those of the PNG specification (W3C).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from common.data.spliced import spliced

__all__ = ["PNG", "Png", "read_png"]

PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST = 1 << 19
"""Bytes of a chunk of metadata, also unpacked; Pillow takes twice that."""
_MOST_PARTS = 200
"""Of the file. The chunks of the pixels follow one another and are one part; a file made to have more is not sorted."""
_TURNS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
"""Keywords of texts that may hold the orientation."""


@dataclass
class Png:
    """What a file states of its pixels."""

    bits: int = 0
    """Of each sample."""
    colour: int = -1
    """Colour type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA."""
    significant: int = 0
    """Bits of each sample that mean something, by the chunk sBIT; otherwise ``bits``."""
    clear: tuple[int, ...] = ()
    """The one transparent grey or colour, in samples as they are in the file; empty if there is none."""


def read_png(file: BinaryIO) -> tuple[BinaryIO, Png]:
    """Sort the chunks, without reading the large ones.

    Parameters
    ----------
    file
        It begins with `PNG`.

    Returns
    -------
    The file as Pillow should see it, and what it states. Lengths that lead past its end, and chunks that are cut off,
    are left for Pillow to find, if they are part of the picture.
    """
    end = file.seek(0, 2)
    parts = [(0, len(PNG))]
    found, turned, position = Png(), set[bytes](), len(PNG)
    while position < end and len(parts) < _MOST_PARTS:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            break
        length, kind = struct.unpack(">I4s", head)
        stop = min(position + 12 + length, end)
        if _is_kept(file, kind, length, turned):
            if kind in (b"IHDR", b"tRNS"):
                file.seek(position + 8)
                _state(found, kind, file.read(min(length, 16)))
            if parts[-1][1] == position:
                parts[-1] = (parts[-1][0], stop)
            else:
                parts.append((position, stop))
        elif kind == b"sBIT":
            _state(found, kind, file.read(min(length, 4)))
        position = stop
        if kind == b"IEND":
            position = end
    if position < end:
        parts.append((position, end))
    return spliced(file, parts), found


def _is_kept(file: BinaryIO, kind: bytes, length: int, turned: set[bytes]) -> bool:
    """Whether Pillow sees a chunk, at the beginning of whose data the file is."""
    if not kind[0] & 0x20:  # a capital: without it there is no picture
        return True
    if kind == b"tRNS":
        return length <= 256
    if kind not in (b"eXIf", b"iTXt", b"zTXt", b"tEXt") or length > _LARGEST:
        return False
    data = file.read(length)
    name = next((turn for turn in _TURNS if data.startswith(turn)), b"") if kind != b"eXIf" else kind
    if not name or name in turned or file.read(4) != struct.pack(">I", zlib.crc32(kind + data)):
        return False
    if not _is_small(kind, data[len(name) :]):
        return False
    turned.add(name)
    return True


def _is_small(kind: bytes, value: bytes) -> bool:
    """Whether a text is so when it is unpacked, too; ``value`` is what follows its keyword."""
    if kind == b"zTXt":
        packed = value[1:]
    elif kind == b"iTXt" and value[:1] != b"\0":
        packed = value[2:].split(b"\0", 2)[-1]
    else:
        return True
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed, _LARGEST)
    except zlib.error:
        return False
    return not unpacker.unconsumed_tail


def _state(found: Png, kind: bytes, data: bytes) -> None:
    if kind == b"IHDR" and len(data) >= 13 and not found.bits:
        found.bits, found.colour = data[8], data[9]
        found.significant = found.bits
    elif kind == b"sBIT" and found.colour != 3:
        most = max(data[: 3 if found.colour in (2, 6) else 1], default=0)
        if 0 < most < found.bits:
            found.significant = most
    elif kind == b"tRNS" and len(data) >= (size := {0: 2, 2: 6}.get(found.colour, 99)):
        found.clear = struct.unpack(f">{size // 2}H", data[:size])
