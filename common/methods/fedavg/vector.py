"""Everything that is trained in float32 as one vector: the tail's parameters, then the head's weight and bias."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.models.heads.base import Head

__all__ = ["join_weights", "split_weights"]


def join_weights(tail: NDArray[np.float32], head: Head) -> NDArray[np.float32]:
    """Tail, then the head's weight and bias: float32 ``(count,)``."""
    return np.concatenate([tail, head.weight.ravel(), head.bias])


def split_weights(weights: NDArray[np.float32], classes: int, features: int) -> tuple[NDArray[np.float32], Head]:
    """The inverse of `join_weights`."""
    tail, weight, bias = np.split(weights, [len(weights) - classes * (features + 1), len(weights) - classes])
    return tail, Head(weight.reshape(classes, features), bias)
