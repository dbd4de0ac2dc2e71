"""Chains of versions: a client that missed rounds gets the steps since the version it holds."""

from __future__ import annotations

from collections.abc import Sequence

from common.downlink.change import unpack_change
from common.downlink.exact import unpack_exact
from common.downlink.relay import unpack_relay
from common.downlink.some import unpack_some
from common.downlink.version import CHANGE, EXACT, FLOAT32, QUANTISED, SOME, Step, read_step
from common.downlink.whole import unpack_float32, unpack_quantised
from common.errors import BadGeometry, OversizedPayload, TruncatedPayload, WrongModel
from common.theta import Version

__all__ = ["MAX_STEPS", "apply_chain", "join_chain", "max_chain_bytes"]

MAX_STEPS = 64
"""Versions in a chain; with the limit on clients, this bounds its work."""


def join_chain(steps: Sequence[bytes]) -> bytes:
    """Several versions, oldest first, as one blob: each behind its length (uint32)."""
    return b"".join(len(step).to_bytes(4, "little") + step for step in steps)


def max_chain_bytes(d: int) -> int:
    """Longest chain that a client reads: twice the longest version (float32), and 64 KiB for tables and headers."""
    return (1 << 16) + 8 * d


def apply_chain(chain: bytes, held: Version | None, d: int, seed: int, segments: Sequence[int]) -> Version:
    """The last theta of a chain, from the version that the client holds.

    Parameters
    ----------
    chain
        What `join_chain` wrote.
    held
        The client's version, or None.
    d, seed, segments
        Masked weights, run seed, layer sizes.

    Raises
    ------
    PayloadError
        If the chain is damaged, or starts from a version that the client does not hold.
    """
    if len(chain) > max_chain_bytes(d):
        raise OversizedPayload(f"{len(chain)} bytes of theta; at most {max_chain_bytes(d)} for {d} masked weights")
    steps: list[Step] = []
    at = 0
    while at < len(chain):
        if len(steps) == MAX_STEPS:
            raise BadGeometry(f"more than {MAX_STEPS} versions in a chain")
        size = int.from_bytes(chain[at : at + 4], "little")
        if len(chain) < at + 4 + size:
            raise TruncatedPayload("a version of theta is cut off")
        steps.append(read_step(chain[at + 4 : at + 4 + size], d))
        at += 4 + size
    if not steps:
        raise TruncatedPayload("no version of theta")
    have = None if held is None else held.digest
    if held is not None and have == steps[-1].digest:
        return held
    starts = [i for i, step in enumerate(steps) if step.base in (None, have)]
    if not starts:
        raise WrongModel(
            f"this client holds theta {have.hex() if have else 'of no version'}, which the chain does not start from"
        )
    version = held
    for step in steps[starts[-1] :]:
        version = _unpack(step, version, d, seed, segments)
    assert version is not None
    return version


def _unpack(step: Step, before: Version | None, d: int, seed: int, segments: Sequence[int]) -> Version:
    if step.form == FLOAT32:
        theta = unpack_float32(step.body, d)
    elif step.form == QUANTISED:
        theta = unpack_quantised(step.body, d, segments)
    elif before is None or before.digest != step.base:
        raise WrongModel("this version needs another than the one before it")
    elif step.form == EXACT:
        theta = unpack_exact(step.body, before.theta, seed)
    elif step.form == CHANGE:
        theta = unpack_change(step.body, before.theta, seed, segments)
    elif step.form == SOME:
        theta = unpack_some(step.body, before.theta, seed)
    else:
        theta = unpack_relay(step.body, before, seed, segments)
    if not theta.all():
        raise BadGeometry("a probability of 0")
    version = Version(theta)
    if version.digest != step.digest:
        raise WrongModel("the theta received has another digest than it says")
    return version
