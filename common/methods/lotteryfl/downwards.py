"""Lottery tickets on their way down: the global values that a client keeps, where the server knows its mask, and all of
them otherwise.

    offset  size  field
    0       8     digest of the global weights, which the reply must name (`common.methods.fedavg.payload`)
    8       8     `common.methods.lotteryfl.ticket.mask_digest` of the positions sent; zeros: all of them
    16      ...   float32: the values at these positions; or the whole tail (its head travels beside), and the head that
                  the run started with, weight and bias
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.digest import DIGEST_BYTES
from common.errors import TruncatedPayload, WrongModel
from common.methods.fedavg.vector import join_weights
from common.methods.lotteryfl.ticket import mask_digest
from common.models.heads.base import Head

__all__ = ["Global", "global_bytes", "pack_everything", "pack_kept", "unpack_global_weights"]

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


def global_bytes(tail_count: int, classes: int, features: int) -> int:
    """Most bytes of either form: the whole tail, and two heads."""
    return 2 * DIGEST_BYTES + 4 * tail_count + 2 * Head.size(classes, features)


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
