"""Some of the positions, chosen by shared randomness: the same ones for everybody, and others in each round."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from common.theta import ONE
from common.uniforms import SERVER_CLIENT, stream_key, uniforms

__all__ = ["share_code", "subset"]


def share_code(share: float) -> int:
    """A share in (0, 1] in units of 1/65536, at least one of them."""
    return max(1, round(share * ONE))


@functools.lru_cache(maxsize=1)  # both ends of a round ask for it several times
def subset(d: int, code: int, seed: int, server_round: int) -> NDArray[np.int64]:
    """Each position with a probability of ``code / 65536``, ascending; at least one.

    Parameters
    ----------
    d
        Positions in all, at least one.
    code
        Of `share_code`, 1 to 65536.
    seed, server_round
        Of the run; the round.
    """
    drawn = uniforms(stream_key(seed, server_round, SERVER_CLIENT, "subset"), d)
    found = np.flatnonzero(drawn <= max(drawn.min(), code - 1))
    found.flags.writeable = False  # it is shared
    return found
