"""Random weights that every machine draws alike."""

from __future__ import annotations

from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray

from common.uniforms import uniforms

__all__ = ["kaiming_uniform"]


def kaiming_uniform(key: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draw the weights of a layer before ReLU (He et al., arXiv 1502.01852): uniform within sqrt(6 / fan in), which
    makes their standard deviation sqrt(2 / fan in).

    Parameters
    ----------
    key
        Of a stream of `common.uniforms`.
    shape
        Outputs first, then all that goes into one output.

    Returns
    -------
    float32 of that shape, never 0. Each value is made of two lanes of 16 bits, so that magnitudes hardly tie. Machines
    agree: all but one square root and one multiplication, which every processor rounds alike, are integers.
    """
    lanes = uniforms(key, 2 * prod(shape)).astype(np.int64)
    centred = 2 * (lanes[0::2] + (lanes[1::2] << 16)) + 1 - 2**32  # odd numbers, as many below 0 as above
    step = sqrt(6 / prod(shape[1:])) / 2**32
    return (centred * step).astype(np.float32).reshape(shape)
