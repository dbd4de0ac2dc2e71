"""``change``: what a round has added to theta, for the aggregation rule ``flips``: a sum of few clients' flips.

Most positions have not changed. Which have is coded as ``exact`` codes one client's flips, with the nearest of the
clients' uniforms in the place of the client's own (`common.codecs.nearest`). A changed position has, nearly always,
moved by the share of the client whose uniform is nearest, up or down as that uniform lies. The shares are listed once,
and of each changed position it is said how far it moved beyond: mostly not at all.

Some codecs move all positions by a little (`fuse8` corrects its mistakes on average). What most positions of one old
value have in common is then listed by value, and "changed" is what differs from it.

====== ============ ====================================================================================================
bytes  what
====== ============ ====================================================================================================
4, 2   round; highest slot + 1, at most 1024
s      which slots took part, a bit each, the lowest slot in the highest bit
k      how remote each of them is, a byte each (`common.codecs.nearest`), by slot
2      the rule's clip
4, b   length of the deflated common changes (int32 by old value), 0 where they are all 0
4, m   length of the deflated shares (int32 by slot that took part)
4, 4   changed positions n; length of their code
...    the code of `common.codecs.exact`
4, v   length of the deflated ways to move beyond the share (int32, each minus the one before), and these
...    their code (`common.entropy`), by how near the nearest uniform is; nothing where there is one way
====== ============ ====================================================================================================
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from common.aggregation.base import Change
from common.aggregation.flips import moved
from common.codecs.exact import Exact
from common.codecs.nearest import MOST_REMOTE, Nearest, remoteness
from common.downlink.tables import LONG, MOST_VALUES, Reader, deflated
from common.downlink.version import CHANGE, pack_step
from common.entropy import decode_symbols, encode_symbols
from common.errors import BadGeometry, ImplausibleDelta
from common.theta import ONE, Version
from common.uniforms import stream_key

__all__ = ["pack_change", "unpack_change"]

_MAX_SLOTS = 1024
"""Every receiver draws a mask for each client: this bounds the work that a message can ask for."""
_LEVELS = 9
_FURTHEST = 128 * ONE
"""A flip counts as much as the largest gain, 64; what mistakes are corrected by comes on top."""
_FRONT = struct.Struct("<IH")
_SHORT = struct.Struct("<H")


def pack_change(
    version: Version,
    before: Version,
    change: Change,
    seed: int,
    server_round: int,
    sizes: Mapping[int, int],
    segments: tuple[int, ...],
) -> bytes | None:
    """Theta after a round, for who holds the theta before it.

    Parameters
    ----------
    version, before
        Theta after and before.
    change
        What `common.aggregation.flips.moved` made the one from the other with.
    seed, server_round
        They name, with the slots, the streams of uniforms of the clients that took part.
    sizes
        Slot of each of them to the length of its payload.
    segments
        Layer sizes.

    Returns
    -------
    None where a client could not follow: slots above 1023, or more values than a code of this kind is for.
    """
    listed = sorted(sizes)
    if not listed or listed[-1] >= _MAX_SLOTS:
        return None
    theta, front = before.theta, _FRONT.pack(server_round, listed[-1] + 1)
    taking_part = np.isin(np.arange(listed[-1] + 1), listed)
    remote = remoteness([sizes[slot] for slot in listed])
    nearest = Nearest(theta, _streams(seed, server_round, listed, remote))
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
    ways, symbols = np.unique(moves - sign * shares[place], return_inverse=True)
    if len(ways) > MOST_VALUES:
        return None
    code = Exact().encode_positions(positions, nearest.state(segments))
    body = [
        front,
        np.packbits(taking_part).tobytes(),
        bytes(remote),
        _SHORT.pack(change.clip),
        deflated(common) if common.any() else LONG.pack(0),
        deflated(shares),
        LONG.pack(len(positions)) + LONG.pack(len(code)) + code,
        deflated(np.diff(ways, prepend=np.int64(0)).astype(np.int64)),
    ]
    if len(ways) > 1:
        body.append(encode_symbols(symbols.astype(np.uint16), _levels(nearest, positions), len(ways), _LEVELS))
    return pack_step(CHANGE, version, before, b"".join(body))


def unpack_change(body: bytes, before: NDArray[np.uint16], seed: int, segments: Sequence[int]) -> NDArray[np.uint16]:
    """Read what `pack_change` wrote, from the theta before; raises PayloadError."""
    reader = Reader(body)
    server_round, count = _FRONT.unpack(reader.take(_FRONT.size))
    if not 0 < count <= _MAX_SLOTS:
        raise BadGeometry(f"{count} slots; 1 to {_MAX_SLOTS} can be")
    bits = np.unpackbits(np.frombuffer(reader.take(-(-count // 8)), np.uint8))
    listed = np.flatnonzero(bits[:count]).tolist()
    remote = list(reader.take(len(listed)))
    (clip,) = _SHORT.unpack(reader.take(_SHORT.size))
    if not listed or bits[count:].any() or max(remote) > MOST_REMOTE or not 0 < clip < ONE // 2:
        raise BadGeometry(f"{len(listed)} slots, theta clipped at {clip} / {ONE}")
    values, index = np.unique(before, return_inverse=True)
    common = reader.inflated(len(values), required=False)
    shares = reader.inflated(len(listed))
    n, code = reader.number(), reader.take(reader.number())
    if n > len(before) // 2:
        raise BadGeometry(f"{n} changed positions of {len(before)}")
    nearest = Nearest(before, _streams(seed, server_round, listed, remote))
    positions = np.flatnonzero(Exact().decode_flips(n, code, nearest.state(tuple(segments))))
    place = np.searchsorted(listed, nearest.slots[positions])
    moves = np.where(nearest.below[positions], -1, 1) * shares[place]
    ways = np.cumsum(reader.inflated(None))
    if (n > 0) != (len(ways) > 0) or len(ways) > MOST_VALUES:
        raise ImplausibleDelta(f"{len(ways)} ways to move for {n} positions")
    if len(ways) == 1:
        moves += ways[0]
    elif n:
        moves += ways[decode_symbols(reader.rest(), _levels(nearest, positions), len(ways), _LEVELS)]
    if reader.rest():
        raise BadGeometry("bytes after the last move")
    change = common[index]
    change[positions] += moves
    if (np.abs(change) > _FURTHEST).any():
        raise BadGeometry(f"a probability moves by more than {_FURTHEST // ONE}")
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


def _levels(nearest: Nearest, positions: NDArray[np.intp]) -> NDArray[np.uint16]:
    """How near the nearest uniform is, in octaves."""
    octaves = np.frexp(nearest.distances[positions].astype(np.float64))[1]  # exact: of integers
    levels: NDArray[np.uint16] = np.clip(octaves - 3, 0, _LEVELS - 1).astype(np.uint16)
    return levels


def _streams(seed: int, server_round: int, slots: Sequence[int], remote: Sequence[int]) -> dict[int, tuple[int, int]]:
    return {slot: (stream_key(seed, server_round, slot), c) for slot, c in zip(slots, remote, strict=True)}
