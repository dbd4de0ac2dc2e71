"""How much a change counts: the gain h of a payload.

A client that has learnt theta_k may send a sample of ``theta + (theta_k - theta) / h`` in the place of one of theta_k,
and the receiver takes h times the change that it decodes. Its mean stays theta_k - theta. Above 1, there are fewer
flips and each counts more: fewer bits, and more noise; below 1 it is the other way round (our choice;
docs/algorithm.md, "Gain").
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.theta import ONE

__all__ = ["LARGEST_CODE", "NARROWEST", "SMALLEST_CODE", "gain_code", "gain_of", "spread"]

SMALLEST_CODE, LARGEST_CODE = -64, 48
"""Gains of 2^-8 to 2^6, by eighths of an octave."""
NARROWEST = 4.0
"""By how much a client with a link of its own may exceed the gain that the server asks for. A change counts as much as
its payload says, so a server takes no larger one from anybody.
"""
_EIGHTHS = tuple(round(2 ** (15 + i / 8)) for i in range(8))
"""2^(i / 8) in units of 2^-15, so that every machine has the same gains to the last bit."""


def gain_code(gain: float) -> int:
    """The nearest code; raises ValueError outside the limits."""
    code = round(8 * math.log2(gain)) if gain > 0 else SMALLEST_CODE - 1
    if not SMALLEST_CODE <= code <= LARGEST_CODE:
        raise ValueError(f"gain = {gain}: must be in [1/256, 64]")
    return code


def gain_of(code: int) -> float:
    """2^(code / 8), the same on every machine."""
    octaves, eighths = divmod(code, 8)
    return math.ldexp(_EIGHTHS[eighths], octaves - 15)


def spread(local: NDArray[np.float32], theta: NDArray[np.uint16], code: int) -> NDArray[np.float32]:
    """``theta + (local - theta) / gain`` in [0, 1]; float32 ``(d,)``, as ``local``.

    Parameters
    ----------
    local
        Local probabilities, float32 ``(d,)``.
    theta
        Global ones on the 16-bit grid.
    code
        Of the gain; 0 leaves everything as it is.
    """
    if code == 0:
        return local
    before = theta.astype(np.float32) / np.float32(ONE)
    moved: NDArray[Any] = before + (local - before) / np.float32(gain_of(code))
    return np.clip(moved, 0, 1, out=moved)
