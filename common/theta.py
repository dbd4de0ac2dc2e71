"""Probabilities on the 16-bit grid that both sides compare integers on.

A probability is stored as ``theta`` in 1..65535 and means ``theta / 65536``. Mask bits come from integer comparisons
with 16-bit uniforms, so that no float rounding on some machine can flip a bit that another machine keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.digest import array_digest

__all__ = ["ONE", "Version", "probabilities", "quantise", "scores", "theta_digest"]

ONE = 65536
"""The grid value that would mean probability 1; theta itself stays in 1..65535, so that scores are finite."""


def quantise(probability: ArrayLike) -> NDArray[np.uint16]:
    """Round probabilities to the grid.

    Parameters
    ----------
    probability
        Values in [0, 1]; 0 and 1 become the nearest grid values inside.

    Returns
    -------
    uint16 array of the same shape, 1..65535.

    Raises
    ------
    ValueError
        If a value is NaN.
    """
    scaled = np.rint(np.asarray(probability, dtype=np.float64) * ONE)
    if np.isnan(scaled).any():
        raise ValueError("a probability is NaN")
    return np.clip(scaled, 1, ONE - 1).astype(np.uint16)


def probabilities(theta: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Grid values as float32 probabilities in (0, 1); exact."""
    return theta.astype(np.float32) / np.float32(ONE)


def scores(theta: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The scores ``s = logit(theta)`` (float32, finite) that a client starts its local training from."""
    p = theta.astype(np.float64) / ONE
    return np.log(p / (1 - p)).astype(np.float32)


def theta_digest(theta: NDArray[np.uint16]) -> bytes:
    """8-byte BLAKE2b digest of theta as little-endian bytes: names one version of the global model."""
    return array_digest(theta, "<u2")


@dataclass(frozen=True, eq=False)
class Version:
    """One version of the global probabilities, whose digest is computed once."""

    theta: NDArray[np.uint16]
    """``(d,)``, and never changed in place."""

    @cached_property
    def digest(self) -> bytes:
        """`theta_digest` of it."""
        return theta_digest(self.theta)
