"""Bytes to other bytes: what damage does to them, and what an attacker would try first.

All randomness is a numpy Generator's, so that equal seeds give equal bytes on any machine.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable, Sequence

from numpy.random import Generator

__all__ = ["EXTREMES", "KINDS", "mutate", "mutated_within", "one_of"]

_FRONT = 48
"""Sizes and counts stand in front: half of all places are there."""
_MOST_GROWTH = 4096
_PNG_DATA = b"IDAT"
_BOMB_BYTES = 48 << 20
_ZLIB_STARTS = (b"\x78\x01", b"\x78\x9c", b"\x78\xda")
EXTREMES = (0, 1, 2, 3, 4, 7, 8, 16, 64, 65, 127, 128, 255, 256, 1024, 1025, 2**15, 2**16, 2**31, 2**32, 2**63)
"""Integers at which something begins or ends; with those just below, and their negatives, modulo the field."""
_FLOATS = (0.0, -0.0, 1e-45, 1e-38, -1e-9, 0.5, 1.0, 256.0, -256.1, 1e6, 1.1e6, 1e12, 1e30, 3.4e38)
_FLOATS_OF_NO_SIZE = (float("nan"), float("inf"), float("-inf"))

Mutation = Callable[[Generator, bytes, Sequence[bytes]], bytes]
"""Takes the bytes, and others of their kind."""


def one_of(rng: Generator, values: Sequence[bytes]) -> bytes:
    """Any of them."""
    return values[int(rng.integers(len(values)))]


def mutate(rng: Generator, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Bytes after one to four changes, most often one.

    Parameters
    ----------
    rng
        Says which.
    data, others
        What is changed, and others of its kind, parts of which may get into it.
    """
    for _ in range(min(int(rng.geometric(0.65)), 4)):
        data = KINDS[int(rng.integers(len(KINDS)))](rng, data, others)
    return data


def mutated_within(rng: Generator, data: bytes) -> bytes:
    """Bytes of the same length with a few of them changed."""
    kinds = (_flip_bits, _overwrite, _number)
    return kinds[int(rng.integers(len(kinds)))](rng, data, ())


def _place(rng: Generator, size: int) -> int:
    """A place in so many bytes, more often near their front."""
    return int(rng.integers(min(size, _FRONT) if rng.integers(2) else size)) if size else 0


def _flip_bits(rng: Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(min(int(rng.geometric(0.5)), 8) if data else 0):
        changed[_place(rng, len(data))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _overwrite(rng: Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    at, size = _place(rng, len(data)), int(rng.integers(1, 17))
    size = min(size, len(data) - at)
    value = (b"\0", b"\xff", b"\x80", b"\x7f", b"\1")[int(rng.integers(5))]
    return data[:at] + (rng.bytes(size) if rng.integers(4) == 0 else value * size) + data[at + size :]


def _number(rng: Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """An extreme number in a field of 1, 2, 4 or 8 bytes, or a float32."""
    if rng.integers(6) == 0:
        floats = _FLOATS if rng.integers(3) else _FLOATS_OF_NO_SIZE
        field = struct.pack("<f", floats[int(rng.integers(len(floats)))] * (1 - 2 * int(rng.integers(2))))
    else:
        value = EXTREMES[int(rng.integers(len(EXTREMES)))] - int(rng.integers(2))
        size = 1 << int(rng.integers(4))
        order = "little" if rng.integers(8) else "big"
        field = (value * (1 - 2 * int(rng.integers(2))) % (1 << 8 * size)).to_bytes(size, order)
    at = _place(rng, len(data) - len(field) + 1) if len(data) >= len(field) else 0
    return (data[:at] + field + data[at + len(field) :])[: len(data)]


def _cut(rng: Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    return data[: int(rng.integers(len(data) + 1))] if rng.integers(2) else data[: -int(rng.integers(1, 9))]


def _extend(rng: Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    size = int(rng.integers(1, 9 if rng.integers(4) else _MOST_GROWTH))
    return data + (rng.bytes(size) if rng.integers(2) else bytes(size))


def _splice(rng: Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """The front of one and the end of another."""
    other = one_of(rng, others) if others else data
    at = int(rng.integers(len(data) + 1))
    return data[:at] + other[at if rng.integers(2) else int(rng.integers(len(other) + 1)) :]


def _repeat(rng: Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    start, end = sorted(rng.integers(len(data) + 1, size=2).tolist())
    block = data[start:end]
    times = min(int(rng.geometric(0.5)), _MOST_GROWTH // max(1, len(block)))
    return data[:end] + block * times + data[end:]


def _delete(rng: Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    at = _place(rng, len(data))
    return data[:at] + data[at + int(rng.integers(1, 9 if rng.integers(2) else 1 + max(1, len(data)))) :]


def _random(rng: Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """Noise of a plausible size, perhaps behind an honest front."""
    front = data[: int(rng.integers(_FRONT))] if rng.integers(2) else b""
    size = len(data) - len(front) if rng.integers(2) else int(rng.integers(2 * len(data) + 64))
    return front + rng.bytes(max(0, size))


def _deflated(rng: Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change what a deflated part inflates to, and deflate it again, with the length before it made to fit: a table,
    or the pixels of a PNG. Without one, bits.
    """
    starts = [at for start in _ZLIB_STARTS if (at := data.find(start)) >= 0]
    at = starts[int(rng.integers(len(starts)))] if starts else -1
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(data[at:], 1 << 20) if starts else b""
    except zlib.error:
        raw = b""
    if not inflater.eof:
        return _flip_bits(rng, data, others)
    end = len(data) - len(inflater.unused_data)
    inside = (_flip_bits, _overwrite, _number, _cut, _extend, _repeat, _delete)
    changed = inside[int(rng.integers(len(inside)))](rng, raw, others)
    packed = _bomb() if rng.integers(100) == 0 else zlib.compress(changed, 1)
    front, behind = data[:at], data[end:]
    if front.endswith(_PNG_DATA):
        length, checksum = (struct.pack(">I", n) for n in (len(packed), zlib.crc32(_PNG_DATA + packed)))
        return front[:-8] + length + _PNG_DATA + packed + checksum + behind[4:]
    if front.endswith((end - at).to_bytes(4, "little")):
        front = front[:-4] + len(packed).to_bytes(4, "little")
    return front + packed + behind


@functools.cache
def _bomb() -> bytes:
    """48 kB that inflate to a thousand times as much."""
    return zlib.compress(bytes(_BOMB_BYTES), 6)


KINDS: tuple[Mutation, ...] = (
    _flip_bits,
    _flip_bits,
    _overwrite,
    _number,
    _number,
    _cut,
    _extend,
    _splice,
    _repeat,
    _delete,
    _random,
    _deflated,
    _deflated,
)
"""What `mutate` chooses from; what reaches furthest stands twice."""
