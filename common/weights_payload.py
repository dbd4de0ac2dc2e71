"""A client's trained weights as they travel under ``fedavg``: the payload header, then float32, nothing compressed.

It is what compressed updates are measured against. Codec number 0 says that the body is plain numbers; ``d`` and ``n``
both count them: the tail's parameters, then the head's weight and bias.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from common.errors import BadMetric, WrongModel
from common.models import Head
from common.wire import HEADER_BYTES, METHODS, Header, pack_payload, unpack_payload

__all__ = [
    "LARGEST",
    "join_weights",
    "pack_weights",
    "split_weights",
    "unpack_weights",
    "weights_bytes",
    "weights_digest",
]

LARGEST = 256.0
"""No weight is larger: averages are sums of fixed-point numbers (`deltamask_server.fedavg`)."""
_PLAIN = 0


def join_weights(tail: NDArray[np.float32], head: Head) -> NDArray[np.float32]:
    """Tail, then the head's weight and bias: float32 ``(count,)``."""
    return np.concatenate([tail, head.weight.ravel(), head.bias])


def split_weights(weights: NDArray[np.float32], classes: int, features: int) -> tuple[NDArray[np.float32], Head]:
    """The inverse of `join_weights`."""
    tail, weight, bias = np.split(weights, [len(weights) - classes * (features + 1), len(weights) - classes])
    return tail, Head(weight.reshape(classes, features), bias)


def weights_digest(weights: NDArray[np.float32]) -> bytes:
    """8 bytes (BLAKE2b) that name a vector of weights."""
    return hashlib.blake2b(weights.astype("<f4").tobytes(), digest_size=8).digest()


def weights_bytes(count: int) -> int:
    """Size of a payload of so many weights."""
    return HEADER_BYTES + 4 * count


def pack_weights(weights: NDArray[np.float32], server_round: int, slot: int, base: bytes) -> bytes:
    """Encode float32 ``(count,)``, trained from the weights with digest ``base``."""
    return pack_payload(_header(len(weights), server_round, slot, base), weights.astype("<f4").tobytes())


def unpack_weights(payload: bytes, count: int, server_round: int, slot: int, base: bytes) -> NDArray[np.float32]:
    """Read what `pack_weights` wrote.

    Raises
    ------
    PayloadError
        As `common.wire.unpack_payload`; WrongModel for another number of weights, BadMetric for one that is not finite
        or above `LARGEST`.
    """
    n, body = unpack_payload(payload, _header(count, server_round, slot, base))
    if n != count or len(body) != 4 * count:
        raise WrongModel(f"{len(body)} bytes of weights; {4 * count} are needed")
    weights = np.frombuffer(body, "<f4").astype(np.float32)
    if not (np.abs(weights) <= LARGEST).all():  # NaN compares with nothing
        raise BadMetric(f"weights that are not finite, or above {LARGEST:g}")
    return weights


def _header(count: int, server_round: int, slot: int, base: bytes) -> Header:
    return Header(_PLAIN, server_round, slot, count, count, base, METHODS["fedavg"])
