"""Which form of theta each client is sent: the steps since the version it holds, or the whole, whichever is shorter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from common.downlink import MAX_STEPS, join_chain, pack_exact, pack_float32, pack_quantised, pack_relay, pack_same
from common.posterior import BetaPosterior
from common.theta import theta_digest

__all__ = ["Downlink"]


@dataclass(frozen=True)
class _Kept:
    base: bytes
    """Digest of the version before."""
    data: bytes | None
    """The step from there, None if theta could not be coded so."""


class Downlink:
    """The newest theta, and the steps that led to it.

    Parameters
    ----------
    form
        ``float32``, ``quantised``, ``exact`` or ``relay``.
    segments, seed
        Layer sizes and run seed.
    theta
        The first version.
    clip
        Theta-clip of the posterior's mode.
    """

    def __init__(
        self, form: str, segments: Sequence[int], seed: int, theta: NDArray[np.uint16], clip: float = 0.01
    ) -> None:
        self._form, self._segments, self._seed, self._clip = form, tuple(segments), seed, clip
        self._theta = theta
        self._steps: list[_Kept] = []
        self._whole: bytes | None = None

    def publish(
        self,
        theta: NDArray[np.uint16],
        server_round: int,
        payloads: Mapping[int, bytes] = MappingProxyType({}),
        start: BetaPosterior | None = None,
    ) -> None:
        """A new version: theta after the masks of ``payloads`` (by slot) of ``server_round`` were folded into
        ``start``. Signs, which no shared mask tells anything of, come without either.
        """
        before = theta_digest(self._theta)
        if self._form in ("exact", "relay") and theta_digest(theta) != before:
            if self._form == "exact" or start is None:
                data = pack_exact(theta, self._theta, self._seed, server_round, list(payloads))
            else:
                data = pack_relay(theta, self._theta, start, self._clip, server_round, payloads)
            self._steps = [*self._steps, _Kept(before, data)][-MAX_STEPS:]
        self._theta, self._whole = theta, None

    def message(self, held: bytes | None) -> bytes:
        """The chain for a client that holds the version with digest ``held`` (None: nothing)."""
        if held == theta_digest(self._theta):
            return join_chain([pack_same(self._theta)])
        if self._whole is None:
            pack = pack_float32(self._theta) if self._form == "float32" else pack_quantised(self._theta, self._segments)
            self._whole = join_chain([pack])
        bases = [step.base for step in self._steps]
        if held not in bases:
            return self._whole
        since = [step.data for step in self._steps[bases.index(held) :]]
        chain = join_chain([data for data in since if data is not None])
        return chain if None not in since and len(chain) < len(self._whole) else self._whole
