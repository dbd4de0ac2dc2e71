"""Chains of versions: a client that missed rounds gets the steps since the version it holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.downlink.exact import unpack_exact
from common.downlink.relay import unpack_relay
from common.downlink.version import EXACT, FLOAT32, QUANTISED, SMALLEST, Step, read_step
from common.downlink.whole import unpack_float32, unpack_quantised
from common.errors import TruncatedPayload, WrongModel
from common.theta import theta_digest

__all__ = ["apply_chain", "join_chain"]


def join_chain(steps: Sequence[bytes]) -> bytes:
    """Several versions, oldest first, as one blob: each behind its length (uint32)."""
    return b"".join(len(step).to_bytes(4, "little") + step for step in steps)


def apply_chain(
    chain: bytes, held: NDArray[np.uint16] | None, d: int, seed: int, segments: Sequence[int]
) -> NDArray[np.uint16]:
    """The last theta of a chain, from the version that the client holds.

    Parameters
    ----------
    chain
        What `join_chain` wrote.
    held
        The client's theta, or None.
    d, seed, segments
        Masked weights, run seed, layer sizes.

    Raises
    ------
    PayloadError
        If the chain is damaged, or starts from a version that the client does not hold.
    """
    steps, at = [], 0
    while at < len(chain):
        size = int.from_bytes(chain[at : at + 4], "little")
        if len(chain) < at + 4 + size or size < SMALLEST:
            raise TruncatedPayload("a version of theta is cut off")
        steps.append(read_step(chain[at + 4 : at + 4 + size], d))
        at += 4 + size
    if not steps:
        raise TruncatedPayload("no version of theta")
    have = None if held is None else theta_digest(held)
    if have == steps[-1].digest and held is not None:
        return held
    starts = [i for i, step in enumerate(steps) if step.base in (None, have)]
    if not starts:
        raise WrongModel(
            f"this client holds theta {have.hex() if have else 'of no version'}, which the chain does not start from"
        )
    theta = held
    for step in steps[starts[-1] :]:
        theta = _unpack(step, theta, d, seed, segments)
    assert theta is not None
    return theta


def _unpack(
    step: Step, base: NDArray[np.uint16] | None, d: int, seed: int, segments: Sequence[int]
) -> NDArray[np.uint16]:
    if step.form == FLOAT32:
        theta = unpack_float32(step.body, d)
    elif step.form == QUANTISED:
        theta = unpack_quantised(step.body, d, segments)
    elif base is None:
        raise WrongModel("this version needs one that the client does not hold")
    elif step.form == EXACT:
        theta = unpack_exact(step.body, base, seed)
    else:
        theta = unpack_relay(step.body, base, seed, segments)
    if theta_digest(theta) != step.digest:
        raise WrongModel("the theta received has another digest than it says")
    return theta
