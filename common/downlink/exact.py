"""``exact``: what a round changed, coded against what everybody can draw."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.codecs.state import SharedState
from common.downlink.palette import pack_palette, palette_of, read_palette
from common.downlink.version import EXACT, pack_step
from common.entropy import decode_symbols, encode_symbols
from common.errors import BadGeometry, TruncatedPayload, WrongFormat
from common.theta import Version

__all__ = ["MAX_CLIENTS", "pack_exact", "unpack_exact"]

MAX_CLIENTS = 1024
"""Every receiver draws or decodes a mask for each client: this bounds the work that a message can ask for."""
_MAX_CONTEXTS = 2048
_NEAR = (64, 1024, 4096)
"""Distances on the 16-bit grid between a client's uniform and theta, within which a small step flips its bit."""


def pack_exact(version: Version, before: Version, seed: int, server_round: int, slots: Sequence[int]) -> bytes | None:
    """Theta after a round, for who holds the theta before it.

    Parameters
    ----------
    version, before
        Theta after and before.
    seed, server_round, slots
        Run seed, the round, and the slots of the clients whose masks were folded: they name the streams of uniforms.

    Returns
    -------
    None if theta has too many values for a code of this kind.
    """
    base = before.theta
    palette, symbols = palette_of(version.theta)
    old_palette, old = palette_of(base)
    if palette is None or old_palette is None or len(slots) > MAX_CLIENTS:
        return None
    front = struct.pack("<IH", server_round, len(slots)) + np.asarray(sorted(slots), "<u4").tobytes()
    front += pack_palette(palette)
    bodies = []
    for kind in (0, 1):
        contexts, classes = _contexts(kind, base, old, len(old_palette), seed, server_round, sorted(slots))
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
    contexts, classes = _contexts(rest[0], base, old, len(old_palette), seed, server_round, slots)
    return palette[decode_symbols(rest[1:], contexts, len(palette), classes)]


def _contexts(
    kind: int,
    base: NDArray[np.uint16],
    old: NDArray[np.uint16],
    values: int,
    seed: int,
    server_round: int,
    slots: Sequence[int],
) -> tuple[NDArray[np.uint16], int]:
    """What both sides know of a position: kind 0, its old value; kind 1, also the ones among the slots' masks m_g,
    and how near the nearest of their uniforms is to theta.
    """
    if kind == 0:
        return old, values
    if kind != 1:
        raise WrongFormat(f"contexts of kind {kind}")
    ones = np.zeros(len(base), dtype=np.uint16)
    nearest = np.full(len(base), 65535, dtype=np.uint16)
    for slot in slots:
        shared = SharedState(base, seed, server_round, slot)
        mask = shared.mask()
        ones += mask
        distance = np.where(mask, base - shared.uniforms, shared.uniforms - base)
        np.minimum(nearest, distance, out=nearest)
    levels = len(_NEAR) + 1
    near = np.searchsorted(np.array(_NEAR, dtype=np.uint16), nearest).astype(np.uint16)
    contexts = (ones * np.uint16(levels)) + near
    classes = (len(slots) + 1) * levels
    # The old value matters beside the ones when the posterior reaches back further than one round; not if there are
    # many.
    if classes * values <= _MAX_CONTEXTS:
        contexts = contexts * np.uint16(values) + old
        classes *= values
    return contexts, classes
