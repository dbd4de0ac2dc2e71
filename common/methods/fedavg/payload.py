"""Plain numbers as they travel under ``fedavg``, and scores under ``hidenseek`` where those are sent: the payload
header, then float32, nothing compressed.

It is what compressed updates are measured against. Codec number 0 says that the body is plain numbers; ``d`` and ``n``
both count them: the tail's parameters, then the head's weight and bias.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.digest import array_digest
from common.errors import BadMetric, WrongModel
from common.wire import HEADER_BYTES, PLAIN, Header, pack_payload, unpack_payload

__all__ = [
    "LARGEST",
    "WEIGHTS",
    "pack_empty",
    "pack_weights",
    "read_weights",
    "unpack_weights",
    "weights_bytes",
    "weights_digest",
]

LARGEST = 256.0
"""No weight is larger: averages are sums of fixed-point numbers (`deltamask_server.fixed_point`)."""
WEIGHTS = 2
"""Method number of payloads of weights."""


def weights_digest(weights: NDArray[np.float32]) -> bytes:
    """8 bytes (BLAKE2b) that name a vector of weights."""
    return array_digest(weights, "<f4")


def weights_bytes(count: int) -> int:
    """Size of a payload of so many weights."""
    return HEADER_BYTES + 4 * count


def pack_weights(
    weights: NDArray[np.float32], server_round: int, slot: int, base: bytes, method: int = WEIGHTS
) -> bytes:
    """Encode float32 ``(count,)``, trained from the weights with digest ``base``."""
    return pack_payload(_header(len(weights), server_round, slot, base, method), weights.astype("<f4").tobytes())


def pack_empty(method: int, server_round: int, slot: int) -> bytes:
    """A payload that carries nothing, of a client that keeps what it learnt."""
    return pack_payload(_header(0, server_round, slot, bytes(8), method), b"")


def unpack_weights(
    payload: bytes, count: int, server_round: int, slot: int, base: bytes, method: int = WEIGHTS
) -> NDArray[np.float32]:
    """Read what `pack_weights` wrote.

    Raises
    ------
    PayloadError
        As `common.wire.unpack_payload`; WrongModel for another number of weights, BadMetric for one that is not finite
        or above `LARGEST`.
    """
    found, body = unpack_payload(payload, _header(count, server_round, slot, base, method))
    if found.n != count:
        raise WrongModel(f"{found.n} weights; {count} are needed")
    return read_weights(body, count)


def read_weights(data: bytes, count: int) -> NDArray[np.float32]:
    """Plain little-endian float32 ``(count,)``; raises WrongModel or BadMetric, as `unpack_weights`."""
    if len(data) != 4 * count:
        raise WrongModel(f"{len(data)} bytes of weights; {4 * count} are needed")
    weights = np.frombuffer(data, "<f4").astype(np.float32)
    if not (np.abs(weights) <= LARGEST).all():  # NaN compares with nothing
        raise BadMetric(f"weights that are not finite, or above {LARGEST:g}")
    return weights


def _header(count: int, server_round: int, slot: int, base: bytes, method: int) -> Header:
    return Header(PLAIN, server_round, slot, count, count, base, method)
