"""What stands in a payload of ``relative``: its front, its step, and indices of some bits each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.errors import BadGeometry, TruncatedPayload
from common.theta import ONE

__all__ = ["MOST_STEP", "PART", "STEPPED", "enlarged", "pack_indices", "read_front", "step_of", "unpack_indices"]

STEPPED = 0x80
"""Set beside the bits of an index where a step follows."""
MOST_STEP = 64
"""Largest code of a step: 2^-8."""
PART = 1 << 20
"""Positions, or indices to pack, handled at a time: bounds what is allocated beside inputs and output. A multiple of 8,
so that packed parts end on whole bytes."""
_MIN_BITS, _MAX_BITS = 6, 14


def read_front(body: bytes) -> tuple[int, int, int, int]:
    """Bits of an index, target, code of the step, and the bytes that they take; checked."""
    stepped = bool(body) and bool(body[0] & STEPPED)
    size = 3 if stepped else 2
    if len(body) < size:
        raise TruncatedPayload(f"{len(body)} bytes of body; bits, target and step alone have {size}")
    bits, target, code = body[0] & ~STEPPED, body[1], body[2] if stepped else 0
    if not _MIN_BITS <= bits <= _MAX_BITS or target == 0:
        raise BadGeometry(f"blocks of {target}/16 bits with indices of {bits} bits")
    if stepped and not 1 <= code <= MOST_STEP:
        raise BadGeometry(f"a step of 2^-({code}/8)")
    return bits, target, code, size


def step_of(code: int) -> float:
    """The share of a sample that counts, 2^(-code / 8)."""
    return float(2.0 ** (-code / 8))


def enlarged(local: NDArray[np.float32], theta: NDArray[np.uint16], code: int) -> NDArray[np.float64]:
    """``theta + (local - theta) / step``, in [0, 1]."""
    if code == 0:
        return local.astype(np.float64)
    before = theta / ONE
    return np.clip(before + (local - before) / step_of(code), 0, 1)


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
