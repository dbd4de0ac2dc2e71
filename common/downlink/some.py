"""``some``: what a round has added to theta, where it asked for a shared subset of the positions and no other moved.

Which positions these are follows from the round (`common.subset`), and is not sent. Of each it is said how far it
moved: the values that occur are listed, and which of them it is follows through an entropy coder.

====== ============ ====================================================================================================
bytes  what
====== ============ ====================================================================================================
4, 2   round; share of the positions in 1/65536, minus 1
2      the rule's clip
4, v   length of the deflated values (int32 in 1/65536, ascending, each minus the one before), and these
...    their code (`common.entropy`), without contexts; nothing where there is one value
====== ============ ====================================================================================================
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from common.aggregation.base import Change
from common.aggregation.flips import moved
from common.downlink.tables import MOST_VALUES, Reader, deflated
from common.downlink.version import SOME, pack_step
from common.entropy import decode_symbols, encode_symbols
from common.errors import BadGeometry
from common.subset import subset
from common.theta import ONE, Version

__all__ = ["pack_some", "unpack_some"]

_FRONT = struct.Struct("<IHH")


def pack_some(
    version: Version, before: Version, change: Change, code: int, seed: int, server_round: int
) -> bytes | None:
    """Theta after a round, for who holds the theta before it.

    Parameters
    ----------
    version, before
        Theta after and before.
    change
        What `common.aggregation.flips.moved` made the one from the other with; 0 outside of the subset.
    code
        Share of the positions, of `common.subset.share_code`.
    seed, server_round
        Of the run; the round.

    Returns
    -------
    None if there are more than 4096 values.
    """
    values = change.values[subset(len(before.theta), code, seed, server_round)]
    listed, symbols = np.unique(values, return_inverse=True)
    if len(listed) > MOST_VALUES:
        return None
    body = _FRONT.pack(server_round, code - 1, change.clip) + deflated(np.diff(listed, prepend=np.int32(0)))
    if len(listed) > 1:
        body += encode_symbols(symbols.astype(np.uint16), np.zeros(len(symbols), np.uint16), len(listed), 1)
    return pack_step(SOME, version, before, body)


def unpack_some(body: bytes, before: NDArray[np.uint16], seed: int) -> NDArray[np.uint16]:
    """Read what `pack_some` wrote, from the theta before; raises PayloadError."""
    reader = Reader(body)
    server_round, code, clip = _FRONT.unpack(reader.take(_FRONT.size))
    if not 0 < clip < ONE // 2:
        raise BadGeometry(f"theta clipped at {clip} / {ONE}")
    listed, rest = np.cumsum(reader.inflated(None)), reader.rest()
    if not len(listed) or (np.abs(listed) > ONE).any() or (np.diff(listed) <= 0).any():
        raise BadGeometry(f"{len(listed)} values, which are not ascending within 1")
    at = subset(len(before), code + 1, seed, server_round)
    if len(listed) == 1:
        if rest:
            raise BadGeometry("bytes after the only value")
        symbols = np.zeros(len(at), np.uint16)
    else:
        symbols = decode_symbols(rest, np.zeros(len(at), np.uint16), len(listed), 1)
    change = np.zeros(len(before), np.int32)
    change[at] = listed[symbols]
    return moved(before, change, clip)
