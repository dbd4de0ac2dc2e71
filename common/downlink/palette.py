"""The values that theta takes: a mean of few masks takes few, and its positions are indices among them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.errors import BadGeometry

__all__ = ["pack_palette", "palette_of", "read_palette"]

_MAX_PALETTE = 1024


def palette_of(theta: NDArray[np.uint16]) -> tuple[NDArray[np.uint16] | None, NDArray[np.uint16]]:
    """The values that occur, ascending, and each position's index among them; None if there are more than 1024."""
    occurs = np.bincount(theta, minlength=1 << 16) > 0
    values = np.flatnonzero(occurs).astype(np.uint16)
    if len(values) > _MAX_PALETTE:
        return None, theta
    index = (np.cumsum(occurs) - 1).astype(np.uint16)
    return values, index[theta]


def pack_palette(values: NDArray[np.uint16]) -> bytes:
    """Their number (uint16), then the values (uint16 each)."""
    return len(values).to_bytes(2, "little") + values.astype("<u2").tobytes()


def read_palette(data: bytes) -> tuple[NDArray[np.uint16], bytes]:
    """The values at the front of ``data``, and what follows; raises BadGeometry."""
    size = int.from_bytes(data[:2], "little")
    if not 1 <= size <= _MAX_PALETTE or len(data) < 2 + 2 * size:
        raise BadGeometry(f"a palette of {size} values in {len(data)} bytes")
    values = np.frombuffer(data, "<u2", size, offset=2).astype(np.uint16)
    if not values.min():
        raise BadGeometry("a probability of 0")
    return values, data[2 + 2 * size :]
