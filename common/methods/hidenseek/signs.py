"""Signs as a global model: what HideNseek's server and clients agree on between two rounds.

A sign is kept as one of two values of the 16-bit grid, so that codecs and downlink serve signs as they serve
probabilities. `SignState` draws no randomness: "mask bit 1" is "sign +1", on both sides and for everybody. So a
client's delta is the flips against the last global signs, and all of them are sent.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from common.codecs import SharedState, get_codec
from common.uniforms import stream_key, uniforms

__all__ = ["SIGNS", "SignState", "as_floats", "encode_signs", "initial_scores", "on_grid", "positive_signs"]

SIGNS = 3
"""Method number of payloads of signs."""

_PLUS, _MINUS, _BETWEEN = np.uint16(49_152), np.uint16(16_384), np.uint16(32_768)


class SignState(SharedState):
    """Global signs, as `on_grid` has them, where codecs know probabilities; and a constant in the place of the shared
    uniforms.
    """

    method: ClassVar[int] = SIGNS

    @cached_property
    def uniforms(self) -> NDArray[np.uint16]:
        """Between the two values everywhere, uint16 ``(n,)``: sign +1 is mask bit 1."""
        return np.full(self.d, _BETWEEN, dtype=np.uint16)


def on_grid(positive: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Signs as values of the grid.

    Parameters
    ----------
    positive
        bool ``(n,)``, true where the sign is +1.
    """
    return np.where(positive, _PLUS, _MINUS)


def positive_signs(grid: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """The inverse of `on_grid`."""
    return grid > _BETWEEN


def as_floats(positive: NDArray[np.bool_]) -> NDArray[np.float32]:
    """+1 where true, -1 elsewhere, float32 ``(n,)``."""
    return np.where(positive, np.float32(1), np.float32(-1))


def initial_scores(
    positive: NDArray[np.bool_], largest: float, seed: int, server_round: int, client: int
) -> NDArray[np.float32]:
    """Scores to start a round from: the global signs, with random sizes.

    Averages of signs would serve badly as scores: they are small where clients disagree and 1 where they agree, so that
    training turns all of the former and none of the latter. Sizes drawn anew for every client and round let each client
    turn other signs easily (our choice).

    Parameters
    ----------
    positive
        Where the global sign is +1, ``(n,)``.
    largest
        Sizes are uniform on (0, largest].
    seed, server_round, client
        Name the stream; round 0 is that of the first global scores, where scores travel.
    """
    drawn = uniforms(stream_key(seed, server_round, client, "scores"), len(positive)).astype(np.float32)
    sizes = (drawn + 1) * np.float32(largest / 65_536)
    return np.where(positive, sizes, -sizes).astype(np.float32)


def encode_signs(positive: NDArray[np.bool_], shared: SignState, codec: str) -> bytes:
    """Encode local signs: their flips against the global ones, or the signs themselves where that is shorter.

    Parameters
    ----------
    positive
        bool ``(n,)``.
    shared
        What both sides know.
    codec
        Name of the codec of the flips.

    Returns
    -------
    The whole payload; its header says which of the two it is.
    """
    local = positive.astype(np.float32)
    return min((get_codec(name).encode(local, shared) for name in (codec, "bits")), key=len)
