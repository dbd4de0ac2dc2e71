"""What pruning leaves of a network: which weights, how it travels, and what the weights become before signs are learnt.

The server prunes once and sends the list of kept weights, entropy-coded layer by layer, with a digest of the pruned
weights themselves. A client sets its own copy of the frozen weights likewise and compares: so the weights travel as 8
bytes (they come from a seed, or from the same file on both sides), and no client repeats the pruning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.codecs import get_codec
from common.digest import DIGEST_BYTES, array_digest
from common.errors import TruncatedPayload, WrongModel
from common.methods.hidenseek.signed_constant import kept_factors, signed_constants
from common.methods.hidenseek.signs import SignState, on_grid
from common.wire import max_payload_bytes

__all__ = ["Magnitudes", "Subnetwork", "max_subnetwork_bytes"]

Magnitudes = Literal["own", "constant"]
"""What becomes of the size of a kept weight: it stays, or it is its layer's standard deviation."""


@dataclass(frozen=True, eq=False)
class Subnetwork:
    """Kept weights of a flat vector of d."""

    kept: NDArray[np.bool_]
    """``(d,)``."""
    segments: tuple[int, ...]
    """Weights of each tensor; they add up to d."""

    @property
    def n(self) -> int:
        """Kept weights."""
        return int(np.count_nonzero(self.kept))

    @property
    def kept_segments(self) -> tuple[int, ...]:
        """Kept weights of each tensor."""
        parts = np.split(self.kept, np.cumsum(self.segments)[:-1])
        return tuple(int(np.count_nonzero(part)) for part in parts)

    def spread(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values of the kept weights ``(n,)`` at their places, float32 ``(d,)``; 0 at the pruned ones."""
        flat = np.zeros(len(self.kept), dtype=np.float32)
        flat[self.kept] = values
        return flat

    def prepare(self, weights: NDArray[np.float32], magnitudes: Magnitudes) -> NDArray[np.float32]:
        """What signs are to multiply: kept weights of the size asked for, each layer scaled by the square root of
        (weights / kept weights), pruned ones 0.

        The scale keeps a layer's output as large as it was before pruning; without norms a network of few weights
        would otherwise send hardly any signal through (our choice, as Ramanujan et al., arXiv 1911.13299, do).

        Parameters
        ----------
        weights
            Frozen weights, float32 ``(d,)``.
        magnitudes
            ``own`` or ``constant``.
        """
        sized = signed_constants(weights, self.segments) if magnitudes == "constant" else weights
        scales = np.repeat(kept_factors(self.kept, self.segments), self.segments)
        return np.where(self.kept, sized * scales, np.float32(0)).astype(np.float32)

    def to_bytes(self, prepared: NDArray[np.float32]) -> bytes:
        """Digest of what `prepare` made, then the kept weights as a payload of the codec ``bitmap``."""
        return _digest(prepared) + get_codec("bitmap").encode(self.kept.astype(np.float32), _all(self.segments))

    @staticmethod
    def from_bytes(
        data: bytes, weights: NDArray[np.float32], segments: tuple[int, ...], magnitudes: Magnitudes
    ) -> tuple[Subnetwork, NDArray[np.float32]]:
        """Read what `to_bytes` wrote, and prepare one's own copy of the weights.

        Returns
        -------
        The subnetwork, and float32 ``(d,)``.

        Raises
        ------
        PayloadError
            If the bytes are damaged; WrongModel if these weights are not the server's, or nothing of a tensor is kept.
        """
        subnetwork = Subnetwork.unchecked(data, segments)
        if 0 in subnetwork.kept_segments:
            raise WrongModel(f"no weight of masked tensor {subnetwork.kept_segments.index(0)} is kept")
        prepared = subnetwork.prepare(weights, magnitudes)
        if _digest(prepared) != data[:DIGEST_BYTES]:
            raise WrongModel(
                f"the pruned weights here have digest {_digest(prepared).hex()}, the server's "
                f"{data[:DIGEST_BYTES].hex()}: other frozen weights, or another head"
            )
        return subnetwork, prepared

    @staticmethod
    def unchecked(data: bytes, segments: tuple[int, ...]) -> Subnetwork:
        """As `from_bytes`, for who has no weights to compare."""
        if len(data) < DIGEST_BYTES:
            raise TruncatedPayload(f"{len(data)} bytes of subnetwork; its digest alone has {DIGEST_BYTES}")
        return Subnetwork(get_codec("bitmap").decode(data[DIGEST_BYTES:], _all(segments)), segments)


def max_subnetwork_bytes(d: int) -> int:
    """Most bytes of `Subnetwork.to_bytes` for so many weights."""
    return DIGEST_BYTES + max_payload_bytes(d)


def _all(segments: tuple[int, ...]) -> SignState:
    """What both sides know before anything is pruned."""
    return SignState(on_grid(np.ones(sum(segments), np.bool_)), seed=0, round=0, slot=0, segments=segments)


def _digest(prepared: NDArray[np.float32]) -> bytes:
    return array_digest(prepared, "<f4")
