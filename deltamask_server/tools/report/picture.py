"""The kept payload as an image: the one inside it, or its bytes."""

from __future__ import annotations

import io
import math
import struct
from base64 import b64encode
from dataclasses import dataclass

import numpy as np
from PIL import Image

from common.codecs import codec_of
from common.codecs.fuse import FuseCodec
from common.errors import PayloadError
from common.wire import HEADER_BYTES, read_header

__all__ = ["Picture", "draw"]

_MOST_PNG_BYTES = 1 << 22
_MOST_PIXELS = 1 << 16


@dataclass(frozen=True)
class Picture:
    """A PNG, and what it is."""

    png: bytes
    width: int
    height: int
    inside: bool
    """Whether the payload carried this very PNG; otherwise it was drawn from the payload's bytes."""
    codec: str
    """Name of the codec; empty for plain numbers."""

    @property
    def uri(self) -> str:
        """The image itself as an address."""
        return "data:image/png;base64," + b64encode(self.png).decode()


def draw(payload: bytes) -> Picture | None:
    """The PNG in a payload of a fuse codec; of other payloads the first bytes, a pixel each. None where a payload is
    empty.
    """
    codec = ""
    try:
        found = codec_of(payload)
        codec = found.name
        png = found.read_png(read_header(payload)[0].n, payload[HEADER_BYTES:]) if isinstance(found, FuseCodec) else b""
    except PayloadError:  # plain numbers name no codec
        png = b""
    if 0 < len(png) <= _MOST_PNG_BYTES:
        width, height = struct.unpack_from(">II", png, 16)
        return Picture(png, width, height, True, codec)
    data = np.frombuffer(payload, np.uint8)[:_MOST_PIXELS]
    if not len(data):
        return None
    width = math.ceil(math.sqrt(len(data)))
    height = math.ceil(len(data) / width)
    pixels = np.zeros(height * width, np.uint8)
    pixels[: len(data)] = data
    buffer = io.BytesIO()
    Image.fromarray(pixels.reshape(height, width)).save(buffer, "PNG")
    return Picture(buffer.getvalue(), width, height, False, codec)
