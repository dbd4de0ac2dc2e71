"""8 bytes that name something: theta, weights, a mask, a network, a stream of random numbers."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["DIGEST_BYTES", "array_digest", "digest8", "new_digest"]

DIGEST_BYTES = 8


def digest8(*parts: bytes | memoryview) -> bytes:
    """BLAKE2b of the parts one after another, 8 bytes; memoryviews are contiguous and of one dimension."""
    state = new_digest()
    for part in parts:
        state.update(part)
    return state.digest()


def new_digest() -> hashlib.blake2b:
    """A digest to be fed with ``update``, where not all parts are to be in memory together; ``digest`` gives its 8
    bytes.
    """
    return hashlib.blake2b(digest_size=DIGEST_BYTES)


def array_digest(values: NDArray[np.generic], dtype: str) -> bytes:
    """8 bytes that name an array's numbers, whatever its shape.

    Parameters
    ----------
    values
        Any shape; not copied where it is contiguous and of the type asked for.
    dtype
        How a number is written, byte order included: ``"<u2"``.
    """
    return digest8(np.ascontiguousarray(values, dtype).reshape(-1).data)
