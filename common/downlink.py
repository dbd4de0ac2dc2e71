"""Theta on its way to the clients: forms of one version of the global model, and chains of them.

==== =============  ===================================================================================================
no.  form           what
==== =============  ===================================================================================================
1    ``float32``    probabilities as float32, what most systems send: 32 bits a position
2    ``quantised``  the 16-bit grid values, entropy-coded by layer: for who holds nothing. Theta is a mean of few masks,
so
                    few values occur
3    ``exact``      lossless against the version before, for who holds that one
==== =============  ===================================================================================================

``exact`` (our choice) rests on shared randomness: everybody can draw every client's mask m_g of the last round from
theta and the seeds. The new theta is the mean of masks m_k that differ from m_g in few places, so given the *number* of
ones among the m_g at a position, and how many of the clients' uniforms are near theta there, little is left to say.
After uplinks that do not use those uniforms (``relative``) this says nothing, and the old theta alone is the context:
the encoder tries both.

A message is a chain of such versions: a client that missed rounds gets the steps since, or the quantised theta if that
is shorter, and starts at the step whose base it holds.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.codecs.state import SharedState
from common.entropy import decode_symbols, encode_symbols
from common.errors import BadGeometry, ChecksumMismatch, OversizedPayload, TruncatedPayload, WrongFormat, WrongModel
from common.theta import probabilities, quantise, theta_digest

__all__ = [
    "DOWNLINKS",
    "MAX_STEPS",
    "Step",
    "apply_chain",
    "join_chain",
    "max_chain_bytes",
    "pack_exact",
    "pack_float32",
    "pack_quantised",
    "read_step",
]

DOWNLINKS = ("float32", "quantised", "exact")

_MAGIC, _VERSION = b"DT", 1
_FLOAT32, _QUANTISED, _EXACT = 1, 2, 3
_HEADER = struct.Struct("<2sBBI8s8s")  # magic, version, form, d, digest of this theta, digest of its base
_NO_BASE = bytes(8)
_MAX_PALETTE = 1024
_MAX_CONTEXTS = 2048
_MAX_CLIENTS = 1024
"""Every receiver draws a mask for each client: this bounds the work that a message can ask for."""
MAX_STEPS = 64
"""Versions in a chain; with the limit on clients, this bounds its work."""
_NEAR = (64, 1024, 4096)
"""Distances on the 16-bit grid between a client's uniform and theta, within which a small step flips its bit."""


@dataclass(frozen=True)
class Step:
    """The header of one version: which theta it gives, and which it needs."""

    form: int
    digest: bytes
    base: bytes | None
    body: bytes


def pack_float32(theta: NDArray[np.uint16]) -> bytes:
    """Theta as float32 probabilities; exact, since the grid is."""
    return _pack(_FLOAT32, theta, None, probabilities(theta).astype("<f4").tobytes())


def pack_quantised(theta: NDArray[np.uint16], segments: Sequence[int]) -> bytes:
    """Theta as grid values, each layer with frequencies of its own."""
    palette, symbols = _palette(theta)
    if palette is None:
        return _pack(_QUANTISED, theta, None, b"\0\0" + zlib.compress(theta.astype("<u2").tobytes()))
    body = encode_symbols(symbols, _layers(segments), len(palette), len(segments))
    return _pack(_QUANTISED, theta, None, struct.pack("<H", len(palette)) + palette.astype("<u2").tobytes() + body)


def pack_exact(
    theta: NDArray[np.uint16], base: NDArray[np.uint16], seed: int, server_round: int, clients: Sequence[int]
) -> bytes | None:
    """Theta after a round, for who holds the theta before it.

    Parameters
    ----------
    theta, base
        uint16 ``(d,)``, after and before.
    seed, server_round, clients
        Run seed, the round, and the clients whose masks were folded: they name the streams of uniforms.

    Returns
    -------
    None if theta has too many values for a code of this kind.
    """
    palette, symbols = _palette(theta)
    old_palette, old = _palette(base)
    if palette is None or old_palette is None or len(clients) > _MAX_CLIENTS:
        return None
    front = struct.pack("<IH", server_round, len(clients)) + np.asarray(sorted(clients), "<u4").tobytes()
    front += struct.pack("<H", len(palette)) + palette.astype("<u2").tobytes()
    bodies = []
    for kind in (0, 1):
        contexts, classes = _contexts(kind, base, old, len(old_palette), seed, server_round, sorted(clients))
        if classes * len(palette) <= 1 << 20:
            bodies.append(bytes([kind]) + encode_symbols(symbols, contexts, len(palette), classes))
    return _pack(_EXACT, theta, base, front + min(bodies, key=len)) if bodies else None


def join_chain(steps: Sequence[bytes]) -> bytes:
    """Several versions, oldest first, as one blob: each behind its length (uint32)."""
    return b"".join(len(step).to_bytes(4, "little") + step for step in steps)


def max_chain_bytes(d: int) -> int:
    """Longest chain that a client reads: twice the longest version (float32), and 64 KiB for tables and headers."""
    return (1 << 16) + 8 * d


def apply_chain(
    chain: bytes, held: NDArray[np.uint16] | None, d: int, seed: int, segments: Sequence[int]
) -> NDArray[np.uint16]:
    """The last theta of a chain, from the version that the client holds.

    Parameters
    ----------
    chain
        What `join_chain` wrote.
    held
        The client's theta, or None.
    d, seed, segments
        Masked weights, run seed, layer sizes.

    Raises
    ------
    PayloadError
        If the chain is damaged, or starts from a version that the client does not hold.
    """
    if len(chain) > max_chain_bytes(d):
        raise OversizedPayload(f"{len(chain)} bytes of theta; at most {max_chain_bytes(d)} for {d} masked weights")
    steps: list[Step] = []
    at = 0
    while at < len(chain):
        if len(steps) == MAX_STEPS:
            raise BadGeometry(f"more than {MAX_STEPS} versions in a chain")
        size = int.from_bytes(chain[at : at + 4], "little")
        if len(chain) < at + 4 + size:
            raise TruncatedPayload("a version of theta is cut off")
        steps.append(read_step(chain[at + 4 : at + 4 + size], d))
        at += 4 + size
    if not steps:
        raise TruncatedPayload("no version of theta")
    have = None if held is None else theta_digest(held)
    if have == steps[-1].digest and held is not None:
        return held
    starts = [i for i, step in enumerate(steps) if step.base in (None, have)]
    if not starts:
        raise WrongModel(
            f"this client holds theta {have.hex() if have else 'of no version'}, which the chain does not start from"
        )
    theta = held
    for step in steps[starts[-1] :]:
        theta = _unpack(step, theta, d, seed, segments)
    assert theta is not None
    return theta


def read_step(data: bytes, d: int) -> Step:
    """Check the header and checksum of one version; raises PayloadError."""
    if len(data) < _HEADER.size + 4:
        raise TruncatedPayload(f"{len(data)} bytes of theta; header and checksum alone have {_HEADER.size + 4}")
    magic, version, form, size, digest, base = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != _VERSION or form not in (_FLOAT32, _QUANTISED, _EXACT):
        raise WrongFormat(f"magic {magic!r}, version {version}, form {form}")
    if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise ChecksumMismatch("the checksum of theta does not fit its bytes")
    if size != d:
        raise WrongModel(f"theta has {size} entries; this model has {d} masked weights")
    return Step(form, digest, None if base == _NO_BASE else base, data[_HEADER.size : -4])


def _pack(form: int, theta: NDArray[np.uint16], base: NDArray[np.uint16] | None, body: bytes) -> bytes:
    before = _NO_BASE if base is None else theta_digest(base)
    data = _HEADER.pack(_MAGIC, _VERSION, form, len(theta), theta_digest(theta), before) + body
    return data + zlib.crc32(data).to_bytes(4, "little")


def _unpack(
    step: Step, base: NDArray[np.uint16] | None, d: int, seed: int, segments: Sequence[int]
) -> NDArray[np.uint16]:
    if step.form == _FLOAT32:
        if len(step.body) != 4 * d:
            raise TruncatedPayload(f"{len(step.body)} bytes of float32 theta; {4 * d} expected")
        values = np.frombuffer(step.body, "<f4")
        if not (np.isfinite(values).all() and (values >= 0).all() and (values <= 1).all()):
            raise BadGeometry("a probability is not in [0, 1]")
        theta = quantise(values)
    elif step.form == _QUANTISED:
        theta = _unpack_quantised(step.body, d, segments)
    elif base is None or theta_digest(base) != step.base:
        raise WrongModel("this version needs another than the one before it")
    else:
        theta = _unpack_exact(step.body, base, seed)
    if not theta.all():
        raise BadGeometry("a probability of 0")
    if theta_digest(theta) != step.digest:
        raise WrongModel("the theta received has another digest than it says")
    return theta


def _unpack_quantised(body: bytes, d: int, segments: Sequence[int]) -> NDArray[np.uint16]:
    if body[:2] == b"\0\0":
        try:
            inflater = zlib.decompressobj()
            raw = inflater.decompress(body[2:], 2 * d + 1)
        except zlib.error as error:
            raise BadGeometry(f"theta cannot be inflated: {error}") from error
        if len(raw) != 2 * d or not inflater.eof or inflater.unused_data:
            raise TruncatedPayload(f"{len(raw)} bytes of theta; {2 * d} expected")
        return np.frombuffer(raw, "<u2").astype(np.uint16)
    palette, rest = _read_palette(body)
    return palette[decode_symbols(rest, _layers(segments), len(palette), len(segments))]


def _unpack_exact(body: bytes, base: NDArray[np.uint16], seed: int) -> NDArray[np.uint16]:
    if len(body) < 6:
        raise TruncatedPayload("the round and its clients are cut off")
    server_round, count = struct.unpack_from("<IH", body)
    if count > _MAX_CLIENTS:
        raise BadGeometry(f"masks of {count} clients; at most {_MAX_CLIENTS}")
    if len(body) < 6 + 4 * count:
        raise TruncatedPayload("the list of clients is cut off")
    listed = np.frombuffer(body, "<u4", count, offset=6)
    if (listed[1:] <= listed[:-1]).any():
        raise BadGeometry("the clients are not in ascending order")
    clients = listed.tolist()
    palette, rest = _read_palette(body[6 + 4 * count :])
    old_palette, old = _palette(base)
    if not rest or old_palette is None:
        raise TruncatedPayload("the kind of context is cut off")
    contexts, classes = _contexts(rest[0], base, old, len(old_palette), seed, server_round, clients)
    return palette[decode_symbols(rest[1:], contexts, len(palette), classes)]


def _palette(theta: NDArray[np.uint16]) -> tuple[NDArray[np.uint16] | None, NDArray[np.uint16]]:
    """The values that occur, ascending, and each position's index among them; None if there are too many."""
    occurs = np.bincount(theta, minlength=1 << 16) > 0
    values = np.flatnonzero(occurs).astype(np.uint16)
    if len(values) > _MAX_PALETTE:
        return None, theta
    index = (np.cumsum(occurs) - 1).astype(np.uint16)
    return values, index[theta]


def _read_palette(data: bytes) -> tuple[NDArray[np.uint16], bytes]:
    size = int.from_bytes(data[:2], "little")
    if not 1 <= size <= _MAX_PALETTE or len(data) < 2 + 2 * size:
        raise BadGeometry(f"a palette of {size} values in {len(data)} bytes")
    return np.frombuffer(data, "<u2", size, offset=2).astype(np.uint16), data[2 + 2 * size :]


def _layers(segments: Sequence[int]) -> NDArray[np.uint16]:
    return np.repeat(np.arange(len(segments), dtype=np.uint16), segments)


def _contexts(
    kind: int,
    base: NDArray[np.uint16],
    old: NDArray[np.uint16],
    values: int,
    seed: int,
    server_round: int,
    clients: Sequence[int],
) -> tuple[NDArray[np.uint16], int]:
    """What both sides know of a position: kind 0, its old value; kind 1, also the ones among the clients' masks m_g,
    and how near the nearest of their uniforms is to theta.
    """
    if kind == 0:
        return old, values
    if kind != 1:
        raise WrongFormat(f"contexts of kind {kind}")
    ones = np.zeros(len(base), dtype=np.uint16)
    nearest = np.full(len(base), 65535, dtype=np.uint16)
    for client in clients:
        shared = SharedState(base, seed, server_round, client)
        mask = shared.mask()
        ones += mask
        distance = np.where(mask, base - shared.uniforms, shared.uniforms - base)
        np.minimum(nearest, distance, out=nearest)
    levels = len(_NEAR) + 1
    near = np.searchsorted(np.array(_NEAR, dtype=np.uint16), nearest).astype(np.uint16)
    contexts = (ones * np.uint16(levels)) + near
    classes = (len(clients) + 1) * levels
    # The old value matters beside the ones when the posterior reaches back further than one round; not if there are
    # many.
    if classes * values <= _MAX_CONTEXTS:
        contexts = contexts * np.uint16(values) + old
        classes *= values
    return contexts, classes
