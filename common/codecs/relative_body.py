"""What stands in a payload of ``relative``: its front, and indices of some bits each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.errors import BadGeometry, TruncatedPayload

__all__ = ["FRONT_BYTES", "PART", "pack_indices", "read_front", "unpack_indices"]

PART = 1 << 20
"""Positions, or indices to pack, handled at a time: bounds what is allocated beside inputs and output. A multiple of 8,
so that packed parts end on whole bytes."""
FRONT_BYTES = 2
_MIN_BITS, _MAX_BITS = 6, 14


def read_front(body: bytes) -> tuple[int, int]:
    """Bits of an index, and target: the first `FRONT_BYTES`, checked."""
    if len(body) < FRONT_BYTES:
        raise TruncatedPayload(f"{len(body)} bytes of body; bits and target alone have {FRONT_BYTES}")
    bits, target = body[0], body[1]
    if not _MIN_BITS <= bits <= _MAX_BITS or target == 0:
        raise BadGeometry(f"blocks of {target}/16 bits with indices of {bits} bits")
    return bits, target


def pack_indices(indices: NDArray[np.uint16], bits: int) -> bytes:
    """Join indices of ``bits`` bits, most significant bit first."""
    places = np.arange(bits - 1, -1, -1, dtype=np.uint16)
    return b"".join(
        np.packbits((indices[start : start + PART, None] >> places).astype(np.uint8) & 1).tobytes()
        for start in range(0, len(indices), PART)
    )


def unpack_indices(data: bytes, n: int, bits: int) -> NDArray[np.uint16]:
    """Split n indices; raises BadGeometry if the fill bits are not zero. ``data`` has the right length."""
    raw = np.frombuffer(data, dtype=np.uint8)
    fill = 8 * len(raw) - n * bits
    if n and raw[-1] & ((1 << fill) - 1):
        raise BadGeometry("the fill bits after the last index are not zero")
    indices = np.empty(n, dtype=np.uint16)
    weights = 1 << np.arange(bits - 1, -1, -1, dtype=np.uint16)
    for start in range(0, n, PART):
        stop = min(start + PART, n)
        planes = np.unpackbits(raw[start * bits // 8 : -(-stop * bits // 8)], count=(stop - start) * bits)
        indices[start:stop] = planes.reshape(-1, bits) @ weights
    return indices
