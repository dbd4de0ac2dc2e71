"""``relay``: the payloads that the server accepted, forwarded, and folded by every client with the server's own code.

After ``relative`` uplinks nothing describes the new theta in fewer bits: it carries the clients' sampling noise, about
a bit a position, and the payloads are the seeds of that noise. The posterior that the masks are folded into is rebuilt
from theta itself, which is its mode, so a client keeps theta and nothing else.

Payloads carry slots, not client ids. That is a label, not protection: who knows the run's seed and its clients can work
the slots out, and a payload shows a sample of a client's probabilities to every other client of the run.

====== ============ ====================================================================================================
offset bytes        what
====== ============ ====================================================================================================
0      4            round
4      2            masks that the posterior had counted before this round; 0 if it starts again from its prior
6      8            prior lambda_0, float64
14     8            theta-clip, float64
22     2            number of payloads, at most 1024
24     ...          each payload behind its client's slot (uint32, ascending) and its length (uint32)
====== ============ ====================================================================================================
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from common.codecs import SharedState, codec_of
from common.downlink.exact import MAX_CLIENTS
from common.downlink.version import RELAY, pack_step
from common.errors import BadGeometry, TruncatedPayload, WrongFormat
from common.posterior import BetaPosterior, empty_posterior, fold, mode, posterior_of

__all__ = ["pack_relay", "unpack_relay"]

_FRONT = struct.Struct("<IHddH")
_ENTRY = struct.Struct("<II")


def pack_relay(
    theta: NDArray[np.uint16],
    base: NDArray[np.uint16],
    start: BetaPosterior,
    clip: float,
    server_round: int,
    payloads: Mapping[int, bytes],
) -> bytes | None:
    """Theta after a round as the payloads that made it, for who holds the theta before.

    Parameters
    ----------
    theta, base
        uint16 ``(d,)``, after and before.
    start
        The posterior that the round's masks were folded into; unless it is empty, base is its mode.
    clip
        As in `common.posterior.mode`.
    server_round
        The round.
    payloads
        Slot to accepted payload.

    Returns
    -------
    None where a client could not follow: more than 1024 payloads, or a posterior that theta does not tell.
    """
    if len(payloads) > MAX_CLIENTS or (start.masks and posterior_of(base, start.masks, start.prior, clip) is None):
        return None
    body = _FRONT.pack(server_round, start.masks, start.prior, clip, len(payloads))
    for slot in sorted(payloads):
        body += _ENTRY.pack(slot, len(payloads[slot])) + payloads[slot]
    return pack_step(RELAY, theta, base, body)


def unpack_relay(body: bytes, base: NDArray[np.uint16], seed: int, segments: Sequence[int]) -> NDArray[np.uint16]:
    """Decode and fold what `pack_relay` wrote, from the theta before; raises PayloadError."""
    if len(body) < _FRONT.size:
        raise TruncatedPayload("the front of the relayed payloads is cut off")
    server_round, masks, prior, clip, count = _FRONT.unpack_from(body)
    if not (1 <= prior < 2**32 and 0 < clip < 0.5 and count <= MAX_CLIENTS and masks + count < 2**16):
        raise BadGeometry(f"{count} payloads after {masks} masks, prior {prior}, clip {clip}")
    posterior = posterior_of(base, masks, prior, clip) if masks else empty_posterior(len(base), prior)
    if posterior is None:
        raise BadGeometry(f"the theta held is not the mode of a posterior of {masks} masks")
    at, last = _FRONT.size, -1
    for _ in range(count):
        if len(body) < at + _ENTRY.size:
            raise TruncatedPayload("a relayed payload is cut off")
        slot, size = _ENTRY.unpack_from(body, at)
        at += _ENTRY.size
        if len(body) < at + size:
            raise TruncatedPayload("a relayed payload is cut off")
        if slot <= last:
            raise WrongFormat(f"slot {slot} after slot {last}")
        payload = body[at : at + size]
        shared = SharedState(base, seed, server_round, slot, tuple(segments))
        posterior = fold(posterior, codec_of(payload).decode(payload, shared))
        at, last = at + size, slot
    if at != len(body):
        raise WrongFormat(f"{len(body) - at} bytes after the last payload")
    if posterior.masks == 0 and prior == 1:
        raise BadGeometry("no payload and a flat prior: there is no theta")
    return mode(posterior, clip)
