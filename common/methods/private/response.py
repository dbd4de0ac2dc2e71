"""Responses as they travel: for each of a round's positions one bit, which says a little more often than not which way
the probability there is to move.

Payload: the header (codec 0, n = positions), then the bits, eight to a byte, the first one highest; what is left of the
last byte is 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.errors import BadGeometry, TruncatedPayload, WrongModel
from common.theta import ONE, Version
from common.wire import HEADER_BYTES, PLAIN, Header, pack_payload, unpack_payload

__all__ = ["RESPONSES", "change_of", "pack_responses", "response_bytes", "unpack_responses"]

RESPONSES = 5
"""Method number of payloads of responses."""


def change_of(bits: NDArray[np.bool_], positions: NDArray[np.int64], d: int, amplitude: float) -> NDArray[np.int32]:
    """What a client's bits say of theta_k - theta, int32 ``(d,)`` in 1/65536: the amplitude, up or down.

    Its mean is ``2 * amplitude * x``, where a bit is 1 with a probability of ``1/2 + x``.
    """
    change = np.zeros(d, np.int32)
    change[positions] = np.where(bits, 1, -1) * round(amplitude * ONE)
    return change


def response_bytes(count: int) -> int:
    """Size of a payload for so many positions."""
    return HEADER_BYTES + -(-count // 8)


def pack_responses(bits: NDArray[np.bool_], version: Version, server_round: int, slot: int) -> bytes:
    """Encode the bits of one client, bool ``(n,)``, who was sent this version of theta."""
    header = _header(len(version.theta), len(bits), server_round, slot, version.digest)
    return pack_payload(header, np.packbits(bits).tobytes())


def unpack_responses(
    payload: bytes, d: int, count: int, server_round: int, slot: int, digest: bytes
) -> NDArray[np.bool_]:
    """Read what `pack_responses` wrote, bool ``(count,)``.

    Raises
    ------
    PayloadError
        As `common.wire.unpack_payload`; WrongModel for another number of positions, TruncatedPayload or BadGeometry
        for another number of bits.
    """
    found, body = unpack_payload(payload, _header(d, count, server_round, slot, digest))
    if found.n != count:
        raise WrongModel(f"{found.n} responses; {count} are needed")
    if len(body) != response_bytes(count) - HEADER_BYTES:
        raise TruncatedPayload(f"{len(body)} bytes of {count} responses")
    bits = np.unpackbits(np.frombuffer(body, np.uint8))
    if bits[count:].any():
        raise BadGeometry("the bits behind the responses are not 0")
    return bits[:count].view(np.bool_)


def _header(d: int, count: int, server_round: int, slot: int, digest: bytes) -> Header:
    return Header(PLAIN, server_round, slot, d, count, digest, RESPONSES)
