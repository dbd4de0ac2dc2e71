"""``exact``: what a round changed, coded against what everybody can draw."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.codecs.shared_masks import SharedMasks
from common.downlink.palette import pack_palette, palette_of, read_palette
from common.downlink.version import EXACT, pack_step
from common.entropy import decode_symbols, encode_symbols
from common.errors import BadGeometry, TruncatedPayload, WrongFormat
from common.theta import Version
from common.uniforms import stream_key

__all__ = ["MAX_CLIENTS", "pack_exact", "unpack_exact"]

MAX_CLIENTS = 1024
"""Every receiver draws or decodes a mask for each client: this bounds the work that a message can ask for."""
_MAX_CONTEXTS = 2048
_OLD, _DRAWN = 0, 1
"""Kinds of contexts: a position's old value alone, or `_drawn_contexts`."""
_NEAR = (64, 1024, 4096)
"""Distances on the 16-bit grid between a client's uniform and theta, within which a small step flips its bit."""


def pack_exact(
    version: Version,
    before: Version,
    seed: int,
    server_round: int,
    slots: Sequence[int],
    drawn: SharedMasks | None = None,
) -> bytes | None:
    """Theta after a round, for who holds the theta before it.

    Parameters
    ----------
    version, before
        Theta after and before.
    seed, server_round, slots
        Run seed, the round, and the slots of the clients whose masks were folded: they name the streams of uniforms.
    drawn
        The masks of these slots, for who has counted them while folding; None: they are drawn here.

    Returns
    -------
    None if theta has too many values for a code of this kind.

    Raises
    ------
    ValueError
        If the masks drawn are those of another theta or of other slots.
    """
    base = before.theta
    if drawn is not None and not _are_of(drawn, base, _keys(seed, server_round, slots)):
        raise ValueError("the masks drawn are those of another theta, or of other slots")
    palette, symbols = palette_of(version.theta)
    old_palette, old = palette_of(base)
    if palette is None or old_palette is None or len(slots) > MAX_CLIENTS:
        return None
    front = struct.pack("<IH", server_round, len(slots)) + np.asarray(sorted(slots), "<u4").tobytes()
    front += pack_palette(palette)
    if drawn is None:
        drawn = SharedMasks.draw(base, _keys(seed, server_round, slots))
    values = len(old_palette)
    bodies = []
    for kind, (contexts, classes) in ((_OLD, (old, values)), (_DRAWN, _drawn_contexts(drawn, old, values))):
        if classes * len(palette) <= 1 << 20:
            bodies.append(bytes([kind]) + encode_symbols(symbols, contexts, len(palette), classes))
    return pack_step(EXACT, version, before, front + min(bodies, key=len)) if bodies else None


def unpack_exact(body: bytes, base: NDArray[np.uint16], seed: int) -> NDArray[np.uint16]:
    """Read what `pack_exact` wrote, from the theta before; raises PayloadError."""
    if len(body) < 6:
        raise TruncatedPayload("the round and its slots are cut off")
    server_round, count = struct.unpack_from("<IH", body)
    if count > MAX_CLIENTS:
        raise BadGeometry(f"masks of {count} slots; at most {MAX_CLIENTS}")
    if len(body) < 6 + 4 * count:
        raise TruncatedPayload("the list of slots is cut off")
    listed = np.frombuffer(body, "<u4", count, offset=6)
    if (listed[1:] <= listed[:-1]).any():
        raise BadGeometry("the slots are not in ascending order")
    slots = listed.tolist()
    palette, rest = read_palette(body[6 + 4 * count :])
    old_palette, old = palette_of(base)
    if not rest or old_palette is None:
        raise TruncatedPayload("the kind of context is cut off")
    contexts, classes = old, len(old_palette)
    if rest[0] == _DRAWN:
        masks = SharedMasks.draw(base, _keys(seed, server_round, slots))
        contexts, classes = _drawn_contexts(masks, old, classes)
    elif rest[0] != _OLD:
        raise WrongFormat(f"contexts of kind {rest[0]}")
    return palette[decode_symbols(rest[1:], contexts, len(palette), classes)]


def _drawn_contexts(drawn: SharedMasks, old: NDArray[np.uint16], values: int) -> tuple[NDArray[np.uint16], int]:
    """What both sides know of a position where they draw: the ones among the slots' masks m_g, how near the nearest of
    their uniforms is to theta, and the old value. Returns contexts, uint16 ``(d,)``, and how many there can be.
    """
    levels = len(_NEAR) + 1
    contexts = drawn.ones * np.uint16(levels)
    for distance in _NEAR:
        contexts += drawn.nearest > distance
    classes = (len(drawn.keys) + 1) * levels
    # The old value matters beside the ones when the posterior reaches back further than one round; not if there are
    # many.
    if classes * values <= _MAX_CONTEXTS:
        contexts *= np.uint16(values)
        contexts += old
        classes *= values
    return contexts, classes


def _keys(seed: int, server_round: int, slots: Sequence[int]) -> list[int]:
    return [stream_key(seed, server_round, slot) for slot in slots]


def _are_of(drawn: SharedMasks, base: NDArray[np.uint16], keys: list[int]) -> bool:
    return sorted(drawn.keys) == sorted(keys) and (drawn.theta is base or np.array_equal(drawn.theta, base))
