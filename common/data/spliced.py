"""A file with parts left out or replaced, without a copy of it."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import BinaryIO

__all__ = ["spliced"]


def spliced(file: BinaryIO, parts: Sequence[tuple[int, int] | bytes]) -> BinaryIO:
    """Put parts one after another, to be read as a file.

    Parameters
    ----------
    file
        Can be sought in. Its position is moved; it is not closed.
    parts
        Positions ``(start, stop)`` in the file, or bytes in their stead.

    Returns
    -------
    Read-only; can be sought in. It has no file descriptor, since that would lead around it.
    """
    return _Reader(_Spliced(file, parts))


class _Reader(io.BufferedReader):
    def __init__(self, raw: _Spliced) -> None:
        super().__init__(raw, buffer_size=1 << 16)
        self._end = raw.end

    def read(self, size: int | None = -1, /) -> bytes:
        # Room for all that is asked for is made at once, and lengths in a file may ask for gigabytes.
        left = max(0, self._end - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


class _Spliced(io.RawIOBase):
    def __init__(self, file: BinaryIO, parts: Sequence[tuple[int, int] | bytes]) -> None:
        self._file = file
        self._parts = parts
        sizes = (len(part) if isinstance(part, bytes) else part[1] - part[0] for part in parts)
        self._starts = [0, *accumulate(sizes)]
        self.end = self._starts[-1]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.end}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        number = bisect_right(self._starts, self._position) - 1
        if number >= len(self._parts):
            return 0
        part, within = self._parts[number], self._position - self._starts[number]
        count = min(len(buffer), self._starts[number + 1] - self._position)
        if isinstance(part, bytes):
            data = part[within : within + count]
        else:
            self._file.seek(part[0] + within)
            data = self._file.read(count)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
