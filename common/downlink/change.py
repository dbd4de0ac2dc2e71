"""``change``: what a round has added to theta, for the aggregation rule ``flips``: a sum of few clients' flips.

Most positions have not changed. Which have is coded as ``exact`` codes one client's flips, with the nearest of the
clients' uniforms in the place of the client's own (`common.codecs.nearest`). A changed position has, nearly always,
moved by the share of the client whose uniform is nearest, up or down as that uniform lies: the shares are listed once,
and other values are spelt.

Some codecs move all positions by a little (`fuse8` corrects its mistakes on average). What most positions of one old
value have in common is then listed by value, and "changed" is what differs from it.

====== ============ ====================================================================================================
bytes  what
====== ============ ====================================================================================================
4, 2   round; highest slot + 1, at most 1024
s      which slots took part, a bit each, the lowest slot in the highest bit
2      the rule's clip
4, b   length of the deflated common changes (int32 by old value), 0 where they are all 0
4, m   length of the deflated shares (int32 by slot that took part)
4, 4   changed positions n; length of their code
...    the code of `common.codecs.exact`
4, ... length of the code of which of them moved as predicted (`common.entropy`), and the code
4, 4v  number of other values, and the values (int32)
...    code of the others' values
====== ============ ====================================================================================================
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.aggregation.base import Change
from common.aggregation.flips import moved
from common.codecs.exact import Exact
from common.codecs.nearest import Nearest
from common.downlink.version import CHANGE, pack_step
from common.entropy import decode_symbols, encode_symbols
from common.errors import BadGeometry, ImplausibleDelta, TruncatedPayload
from common.theta import ONE, Version
from common.uniforms import stream_key

__all__ = ["pack_change", "unpack_change"]

_MAX_SLOTS = 1024
"""Every receiver draws a mask for each client: this bounds the work that a message can ask for."""
_MOST_VALUES = 4096
_FRONT = struct.Struct("<IH")
_SHORT, _LONG = struct.Struct("<H"), struct.Struct("<I")


def pack_change(
    version: Version,
    before: Version,
    change: Change,
    seed: int,
    server_round: int,
    slots: Sequence[int],
    segments: tuple[int, ...],
    nearest: Nearest | None = None,
) -> bytes | None:
    """Theta after a round, for who holds the theta before it.

    Parameters
    ----------
    version, before
        Theta after and before.
    change
        What `common.aggregation.flips.moved` made the one from the other with.
    seed, server_round, slots
        They name the streams of uniforms of the clients that took part.
    segments
        Layer sizes.
    nearest
        Of these streams, for who has followed them while folding; None: they are drawn here.

    Returns
    -------
    None where a client could not follow: slots above 1023, or more values than a code of this kind is for.
    """
    listed = sorted(slots)
    if not listed or listed[-1] >= _MAX_SLOTS:
        return None
    theta, front = before.theta, _FRONT.pack(server_round, listed[-1] + 1)
    taking_part = np.isin(np.arange(listed[-1] + 1), listed)
    if nearest is None:
        nearest = Nearest.among(theta, _keys(seed, server_round, listed))
    values, index = np.unique(theta, return_inverse=True)
    common = _common(change.values, index, len(values))
    rest = change.values - common[index]
    positions = np.flatnonzero(rest)
    moves = rest[positions]
    if len(positions) > len(theta) // 2:
        return None  # not a sum of few flips
    place = np.searchsorted(listed, nearest.slots[positions])
    sign = np.where(nearest.below[positions], -1, 1)
    shares = _shares(moves * sign, place, len(listed))
    predicted = moves == sign * shares[place]
    others = moves[~predicted]
    spelt, symbols = np.unique(others, return_inverse=True)
    if len(spelt) > _MOST_VALUES:
        return None
    code = Exact().encode_positions(positions, nearest.state(segments))
    bits = _bits(predicted) if len(positions) else b""
    body = [
        front,
        np.packbits(taking_part).tobytes(),
        _SHORT.pack(change.clip),
        _deflated(common) if common.any() else _LONG.pack(0),
        _deflated(shares),
        _LONG.pack(len(positions)) + _LONG.pack(len(code)) + code,
        _LONG.pack(len(bits)) + bits,
        _LONG.pack(len(spelt)) + spelt.astype("<i4").tobytes(),
    ]
    if len(spelt) > 1:
        body.append(encode_symbols(symbols.astype(np.uint16), np.zeros(len(others), np.uint16), len(spelt), 1))
    return pack_step(CHANGE, version, before, b"".join(body))


def unpack_change(body: bytes, before: NDArray[np.uint16], seed: int, segments: Sequence[int]) -> NDArray[np.uint16]:
    """Read what `pack_change` wrote, from the theta before; raises PayloadError."""
    reader = _Reader(body)
    server_round, count = _FRONT.unpack(reader.take(_FRONT.size))
    if not 0 < count <= _MAX_SLOTS:
        raise BadGeometry(f"{count} slots; 1 to {_MAX_SLOTS} can be")
    bits = np.unpackbits(np.frombuffer(reader.take(-(-count // 8)), np.uint8))
    listed = np.flatnonzero(bits[:count]).tolist()
    (clip,) = _SHORT.unpack(reader.take(_SHORT.size))
    if not listed or bits[count:].any() or not 0 < clip < ONE // 2:
        raise BadGeometry(f"{len(listed)} slots, theta clipped at {clip} / {ONE}")
    values, index = np.unique(before, return_inverse=True)
    common = reader.inflated(len(values), required=False)
    shares = reader.inflated(len(listed))
    n, code = reader.number(), reader.take(reader.number())
    if n > len(before) // 2:
        raise BadGeometry(f"{n} changed positions of {len(before)}")
    nearest = Nearest.among(before, _keys(seed, server_round, listed))
    positions = np.flatnonzero(Exact().decode_flips(n, code, nearest.state(tuple(segments))))
    predicted = _read_bits(reader.take(reader.number()), n)
    place = np.searchsorted(listed, nearest.slots[positions])
    moves = np.where(nearest.below[positions], -1, 1) * shares[place]
    spelt = np.frombuffer(reader.take(4 * reader.number(_MOST_VALUES)), "<i4").astype(np.int64)
    others = int(np.count_nonzero(~predicted))
    if (others > 0) != (len(spelt) > 0):
        raise ImplausibleDelta(f"{others} positions moved otherwise, by {len(spelt)} values")
    if others:
        symbols = np.zeros(others, np.uint16)
        if len(spelt) > 1:
            symbols = decode_symbols(reader.rest(), np.zeros(others, np.uint16), len(spelt), 1)
        moves[~predicted] = spelt[symbols]
    if reader.rest():
        raise BadGeometry("bytes after the last move")
    change = common[index]
    change[positions] += moves
    if (np.abs(change) > ONE).any():
        raise BadGeometry("a probability moves by more than 1")
    return moved(before, change.astype(np.int32), clip)


def _common(change: NDArray[np.int32], index: NDArray[np.intp], values: int) -> NDArray[np.int64]:
    """The change that most positions of each old value share: their median, which is one of them."""
    if 2 * np.count_nonzero(change) < len(change):
        return np.zeros(values, np.int64)
    order = np.lexsort((change, index))
    counts = np.bincount(index, minlength=values)
    middle = np.cumsum(counts) - counts + counts // 2
    found: NDArray[np.int64] = change[order[middle]].astype(np.int64)
    return found


def _shares(moves: NDArray[np.int64], place: NDArray[np.intp], slots: int) -> NDArray[np.int64]:
    """What each client moves a position by: the commonest move where its uniform is nearest."""
    shares = np.zeros(slots, np.int64)
    for slot in range(slots):
        found, counts = np.unique(moves[place == slot], return_counts=True)
        if len(found):
            shares[slot] = found[counts.argmax()]
    return shares


def _bits(predicted: NDArray[np.bool_]) -> bytes:
    return encode_symbols((~predicted).astype(np.uint16), np.zeros(len(predicted), np.uint16), 2, 1)


def _read_bits(data: bytes, n: int) -> NDArray[np.bool_]:
    if n == 0:
        if data:
            raise BadGeometry("bits of no position")
        return np.zeros(0, np.bool_)
    found: NDArray[np.bool_] = decode_symbols(data, np.zeros(n, np.uint16), 2, 1) == 0
    return found


def _deflated(values: NDArray[np.int64]) -> bytes:
    packed = zlib.compress(values.astype("<i4").tobytes(), 9)
    return _LONG.pack(len(packed)) + packed


def _keys(seed: int, server_round: int, slots: Sequence[int]) -> dict[int, int]:
    return {slot: stream_key(seed, server_round, slot) for slot in slots}


class _Reader:
    """Takes fields off the front of a body."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    def take(self, size: int) -> bytes:
        if self._at + size > len(self._body):
            raise TruncatedPayload(f"{len(self._body) - self._at} bytes left of a change; {size} expected")
        self._at += size
        return self._body[self._at - size : self._at]

    def number(self, most: int = 2**32) -> int:
        value = int.from_bytes(self.take(4), "little")
        if value > most:
            raise BadGeometry(f"{value}; at most {most}")
        return value

    def rest(self) -> bytes:
        return self.take(len(self._body) - self._at)

    def inflated(self, count: int, required: bool = True) -> NDArray[np.int64]:
        size = self.number()
        if size == 0 and not required:
            return np.zeros(count, np.int64)
        try:
            inflater = zlib.decompressobj()
            raw = inflater.decompress(self.take(size), 4 * count + 1)
        except zlib.error as error:
            raise BadGeometry(f"a table cannot be inflated: {error}") from error
        if len(raw) != 4 * count or not inflater.eof or inflater.unused_data:
            raise BadGeometry(f"a table of {len(raw)} bytes; {4 * count} expected")
        return np.frombuffer(raw, "<i4").astype(np.int64)
