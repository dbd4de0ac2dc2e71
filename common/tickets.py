"""Lottery tickets as they travel under ``lotteryfl``: which weights a client keeps, and the float32 values of these.

A client keeps some positions of the vector of ``fedavg`` (the tail's parameters, then the head's weight and bias), and
all others are 0 with it. Upwards go a bit for each position and the values kept; codec number 0 says that nothing is
compressed. Downwards go the global values that the client keeps, where the server knows its mask, and all of them
otherwise.

Downwards, in theta's place:

    offset  size  field
    0       8     digest of the global weights, which the reply must name (`common.weights_payload.weights_digest`)
    8       8     `mask_digest` of the positions sent; zeros: all of them
    16      ...   float32: the values at these positions; or the whole tail (its head travels beside), and the head that
                  the run started with, weight and bias
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.digest import DIGEST_BYTES, array_digest
from common.errors import BadCode, BadMetric, TruncatedPayload, WrongModel
from common.models import Head
from common.weights_payload import LARGEST, join_weights
from common.wire import HEADER_BYTES, METHODS, PLAIN, Header, pack_payload, unpack_payload

__all__ = [
    "Global",
    "mask_digest",
    "pack_everything",
    "pack_kept",
    "pack_mask",
    "pack_ticket",
    "ticket_bytes",
    "unpack_global_weights",
    "unpack_mask",
    "unpack_ticket",
]

_EVERYTHING = bytes(DIGEST_BYTES)


@dataclass(frozen=True)
class Global:
    """The global weights as one client reads them."""

    digest: bytes
    """Of all of them, also where some were sent."""
    weights: NDArray[np.float32]
    """Tail, then head: float32 ``(count,)``; 0 at positions that were not sent."""
    initial_head: Head | None
    """The head that the run started with, where everything was sent."""


def pack_mask(kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Bits of a mask, bool ``(count,)``, lowest first: uint8 ``(ceil(count / 8),)``."""
    return np.packbits(kept, bitorder="little")


def unpack_mask(bits: NDArray[np.uint8], count: int) -> NDArray[np.bool_]:
    """The inverse of `pack_mask`; ``bits`` are of the right size."""
    return np.unpackbits(bits, count=count, bitorder="little").view(np.bool_)


def mask_digest(kept: NDArray[np.bool_]) -> bytes:
    """8 bytes (BLAKE2b) that name a mask, bool ``(count,)``."""
    return array_digest(pack_mask(kept), "u1")


# -- upwards


def ticket_bytes(count: int) -> int:
    """Largest payload for so many weights: all are kept."""
    return HEADER_BYTES + (count + 7) // 8 + 4 * count


def pack_ticket(
    weights: NDArray[np.float32], kept: NDArray[np.bool_], server_round: int, slot: int, base: bytes
) -> bytes:
    """Encode what a client has trained.

    Parameters
    ----------
    weights, kept
        Float32 and bool ``(count,)``; weights that are not kept are not sent.
    server_round, slot
        As in the server's message.
    base
        Digest of the global weights trained from.
    """
    header = _header(len(kept), int(np.count_nonzero(kept)), server_round, slot, base)
    return pack_payload(header, pack_mask(kept).tobytes() + weights[kept].astype("<f4").tobytes())


def unpack_ticket(
    payload: bytes, count: int, server_round: int, slot: int, base: bytes
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Read what `pack_ticket` wrote.

    Parameters
    ----------
    payload
        The bytes received.
    count
        Weights of the model, kept or not.
    server_round, slot, base
        Of this round, of the sender in it, and of the global weights.

    Returns
    -------
    The mask, bool ``(count,)``, and the values at its n ones, float32 ``(n,)``.

    Raises
    ------
    PayloadError
        As `common.wire.unpack_payload`; TruncatedPayload or WrongModel for too few or too many bytes, BadCode for a
        mask with another number of ones than the header's n or with ones behind its end, BadMetric for a value that
        is not finite or above `LARGEST`.
    """
    n, body = unpack_payload(payload, _header(count, 0, server_round, slot, base))
    size = (count + 7) // 8
    if len(body) < size + 4 * n:
        raise TruncatedPayload(f"{len(body)} bytes; a mask of {count} weights and {n} of them have {size + 4 * n}")
    if len(body) > size + 4 * n:
        raise WrongModel(f"{len(body)} bytes; a mask of {count} weights and {n} of them have {size + 4 * n}")
    bits = np.frombuffer(body, np.uint8, size)
    kept = unpack_mask(bits, count)
    ones = int(np.count_nonzero(kept))
    if ones != n or not np.array_equal(pack_mask(kept), bits):
        raise BadCode(f"the header says {n} weights, and the mask has {ones} ones, or more behind its end")
    values = np.frombuffer(body, "<f4", n, size).astype(np.float32)
    if not (np.abs(values) <= LARGEST).all():  # NaN compares with nothing
        raise BadMetric(f"weights that are not finite, or above {LARGEST:g}")
    return kept, values


def _header(count: int, n: int, server_round: int, slot: int, base: bytes) -> Header:
    return Header(PLAIN, server_round, slot, count, n, base, METHODS["lotteryfl"])


# -- downwards


def pack_everything(tail: NDArray[np.float32], initial_head: Head, digest: bytes) -> bytes:
    """The global tail, float32 ``(m,)``, for a client whose mask the server does not know."""
    return digest + _EVERYTHING + tail.astype("<f4").tobytes() + initial_head.to_bytes()


def pack_kept(weights: NDArray[np.float32], kept: NDArray[np.bool_], digest: bytes) -> bytes:
    """The global weights, float32 ``(count,)``, at the positions that a client keeps, bool ``(count,)``."""
    return digest + mask_digest(kept) + weights[kept].astype("<f4").tobytes()


def unpack_global_weights(
    data: bytes, head: Head | None, kept: NDArray[np.bool_], tail_count: int, classes: int, features: int
) -> Global:
    """Read what `pack_everything` or `pack_kept` wrote.

    Parameters
    ----------
    data
        The bytes received.
    head
        The global head that travelled beside, if one did.
    kept
        The client's mask, bool ``(count,)``; all true for one that has none yet.
    tail_count, classes, features
        Parameters of the tail, and shape of the head.

    Raises
    ------
    TruncatedPayload, WrongModel
        If it has another size, or was sent for another mask than the client has: the server then sends everything in
        the next round.
    BadMetric
        If a value of the first head is not finite or too large.
    """
    if len(data) < 2 * DIGEST_BYTES:
        raise TruncatedPayload(f"{len(data)} bytes; the two digests alone have {2 * DIGEST_BYTES}")
    digest, named, values = data[:DIGEST_BYTES], data[DIGEST_BYTES : 2 * DIGEST_BYTES], data[2 * DIGEST_BYTES :]
    if named == _EVERYTHING:
        if len(values) != 4 * tail_count + Head.size(classes, features) or head is None:
            raise WrongModel(f"{len(values)} bytes of weights; {tail_count} of the tail and two heads are needed")
        tail = np.frombuffer(values, "<f4", tail_count).astype(np.float32)
        return Global(digest, join_weights(tail, head), Head.from_bytes(values[4 * tail_count :], classes, features))
    if mask_digest(kept) != named:
        raise WrongModel(f"weights for the mask {named.hex()}, which is not the one that this client has")
    if len(values) != 4 * np.count_nonzero(kept):
        raise WrongModel(f"{len(values)} bytes for {np.count_nonzero(kept)} weights kept")
    weights = np.zeros(len(kept), np.float32)
    weights[kept] = np.frombuffer(values, "<f4")
    return Global(digest, weights, None)
