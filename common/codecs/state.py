"""What server and client both know before a payload is sent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from common.theta import Version, quantise, theta_digest
from common.uniforms import stream_key, uniforms
from common.wire import MASKS

__all__ = ["SharedState"]


@dataclass(frozen=True, eq=False)
class SharedState:
    """The global probabilities and the shared randomness of one client in one round.

    Common random numbers (our reading; the paper leaves it open): the mask before and the mask after training are drawn
    with the *same* uniforms, so a bit flips with probability ``|theta_local - theta|`` only. With independent draws the
    delta would be as large as the mask.

    Parameters
    ----------
    theta
        uint16 ``(d,)``, probability = theta / 65536, 1..65535.
    seed, round, slot
        Run seed, round and the client's slot, its number in this round: they name the stream of uniforms.
    segments
        Layer sizes that add up to d; default ``(d,)``.

    Raises
    ------
    ValueError
        If theta is not a uint16 vector of values above 0, or the segments do not add up to d.
    """

    theta: NDArray[np.uint16]
    seed: int
    round: int
    slot: int
    segments: tuple[int, ...] | None = None
    method: ClassVar[int] = MASKS
    """The method's number in payload headers."""

    def __post_init__(self) -> None:
        if self.theta.ndim != 1 or self.theta.dtype != np.uint16:
            raise ValueError(f"theta must be a uint16 vector, not {self.theta.dtype} of shape {self.theta.shape}")
        if len(self.theta) and not self.theta.min():
            raise ValueError("theta must be at least 1: a probability of 0 has no score")
        segments = (self.d,) if self.segments is None else tuple(int(size) for size in self.segments)
        if sum(segments) != self.d or min(segments, default=0) < 0:
            raise ValueError(f"segments add up to {sum(segments)}, theta has {self.d} entries")
        object.__setattr__(self, "segments", segments)

    @classmethod
    def of(cls, version: Version, seed: int, round: int, slot: int, segments: tuple[int, ...] | None = None) -> Self:
        """The state of one client of a round of this version, whose digest need not be computed again."""
        shared = cls(version.theta, seed, round, slot, segments)
        shared.__dict__["digest"] = version.digest
        return shared

    @property
    def d(self) -> int:
        """Number of masked weights."""
        return len(self.theta)

    @cached_property
    def uniforms(self) -> NDArray[np.uint16]:
        """The shared uniforms u, uint16 ``(d,)``."""
        return uniforms(stream_key(self.seed, self.round, self.slot), self.d)

    @cached_property
    def digest(self) -> bytes:
        """8 bytes that name this theta."""
        return theta_digest(self.theta)

    def mask(self) -> NDArray[np.bool_]:
        """m_g = [u < theta], bool ``(d,)``: the mask that both sides can draw."""
        return self.uniforms < self.theta

    def local_mask(self, theta_local: NDArray[np.float32]) -> NDArray[np.bool_]:
        """m_k = [u < theta_local], bool ``(d,)``, drawn with the same uniforms.

        Parameters
        ----------
        theta_local
            float32 ``(d,)`` in [0, 1]; rounded to the 16-bit grid first.
        """
        return self.uniforms < quantise(theta_local)
