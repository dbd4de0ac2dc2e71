"""Fields of what a round has added to theta, and lists of numbers among them, deflated behind their length."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from common.errors import BadGeometry, TruncatedPayload

__all__ = ["LONG", "MOST_VALUES", "Reader", "deflated"]

LONG = struct.Struct("<I")
MOST_VALUES = 4096
"""In a list of which the receiver does not know the length."""


def deflated(values: NDArray[np.signedinteger]) -> bytes:
    """Numbers of 32 bits as `Reader.inflated` reads them."""
    packed = zlib.compress(values.astype("<i4").tobytes(), 9)
    return LONG.pack(len(packed)) + packed


class Reader:
    """Takes fields off the front of a body."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    def take(self, size: int) -> bytes:
        """So many bytes; raises TruncatedPayload."""
        if self._at + size > len(self._body):
            raise TruncatedPayload(f"{len(self._body) - self._at} bytes left of a change; {size} expected")
        self._at += size
        return self._body[self._at - size : self._at]

    def number(self, most: int = 2**32) -> int:
        """A uint32; raises BadGeometry if it is larger than ``most``."""
        value = int.from_bytes(self.take(4), "little")
        if value > most:
            raise BadGeometry(f"{value}; at most {most}")
        return value

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._body) - self._at)

    def inflated(self, count: int | None, required: bool = True) -> NDArray[np.int64]:
        """So many numbers; None: at most `MOST_VALUES`."""
        size, most = self.number(), MOST_VALUES if count is None else count
        if size == 0 and count is not None and not required:
            return np.zeros(count, np.int64)
        try:
            inflater = zlib.decompressobj()
            raw = inflater.decompress(self.take(size), 4 * most + 1)
        except zlib.error as error:
            raise BadGeometry(f"a table cannot be inflated: {error}") from error
        wrong = len(raw) % 4 or len(raw) > 4 * most if count is None else len(raw) != 4 * count
        if wrong or not inflater.eof or inflater.unused_data:
            raise BadGeometry(f"a table of {len(raw)} bytes; {4 * most} expected")
        return np.frombuffer(raw, "<i4").astype(np.int64)
