"""Lottery tickets as they travel under ``lotteryfl``: which weights a client keeps, and the float32 values of these.

A client keeps some positions of the vector of ``fedavg`` (the tail's parameters, then the head's weight and bias), and
all others are 0 with it. Upwards go a bit for each position and the values kept; codec number 0 says that nothing is
compressed. What goes downwards is in `common.methods.lotteryfl.downwards`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.digest import array_digest
from common.errors import BadCode, BadMetric, TruncatedPayload, WrongModel
from common.methods.fedavg.payload import LARGEST
from common.wire import HEADER_BYTES, PLAIN, Header, pack_payload, unpack_payload

__all__ = [
    "TICKETS",
    "mask_digest",
    "pack_mask",
    "pack_ticket",
    "ticket_bytes",
    "unpack_mask",
    "unpack_ticket",
]

TICKETS = 4
"""Method number of payloads of tickets."""


def pack_mask(kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Bits of a mask, bool ``(count,)``, lowest first: uint8 ``(ceil(count / 8),)``."""
    return np.packbits(kept, bitorder="little")


def unpack_mask(bits: NDArray[np.uint8], count: int) -> NDArray[np.bool_]:
    """The inverse of `pack_mask`; ``bits`` are of the right size."""
    return np.unpackbits(bits, count=count, bitorder="little").view(np.bool_)


def mask_digest(kept: NDArray[np.bool_]) -> bytes:
    """8 bytes (BLAKE2b) that name a mask, bool ``(count,)``."""
    return array_digest(pack_mask(kept), "u1")


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
    found, body = unpack_payload(payload, _header(count, 0, server_round, slot, base))
    n, size = found.n, (count + 7) // 8
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
    return Header(PLAIN, server_round, slot, count, n, base, TICKETS)
