"""``relay``: the payloads that the server accepted, forwarded, and folded by every client with the server's own code.

After ``relative`` uplinks nothing describes the new theta in fewer bits: it carries the clients' sampling noise, about
a bit a position, and the payloads are the seeds of that noise. What the aggregation rule knew before the round is made
from theta itself (`common.aggregation.Rule.read_start`), so a client keeps theta and nothing else.

Payloads carry slots, not client ids. That is a label, not protection: who knows the run's seed and its clients can work
the slots out, and a payload shows a sample of a client's probabilities to every other client of the run.

====== ============ ====================================================================================================
offset bytes        what
====== ============ ====================================================================================================
0      4            round
4      1            number of the aggregation rule
5      2            s, bytes of the rule's start
7      2            number of payloads, at most 1024
9      s            the rule's start
9 + s  ...          each payload behind its client's slot (uint32, ascending), its length (uint32) and, under a rule
                    that weighs, its client's examples (uint32)
====== ============ ====================================================================================================
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.aggregation import Rule, fold_payload, rule_of
from common.codecs import SharedState
from common.downlink.exact import MAX_CLIENTS
from common.downlink.version import RELAY, pack_step
from common.errors import BadGeometry, TruncatedPayload, WrongFormat
from common.theta import Version

__all__ = ["Relayed", "pack_relay", "unpack_relay"]

_FRONT = struct.Struct("<IBHH")
_ENTRY = struct.Struct("<II")
_WEIGHT = struct.Struct("<I")


class Relayed(NamedTuple):
    """One accepted payload, as the server hands it on."""

    payload: bytes
    examples: int


def pack_relay(
    version: Version,
    before: Version,
    rule: Rule[Any],
    start: bytes | None,
    server_round: int,
    relayed: Mapping[int, Relayed],
) -> bytes | None:
    """Theta after a round as the payloads that made it, for who holds the theta before.

    Parameters
    ----------
    version, before
        Theta after and before.
    rule, start
        What the payloads were folded with, and what `Rule.pack_start` made of its state before the round.
    server_round
        The round.
    relayed
        Slot to accepted payload.

    Returns
    -------
    None where a client could not follow: more than 1024 payloads, or a start that theta does not tell.
    """
    if len(relayed) > MAX_CLIENTS or start is None:
        return None
    body = [_FRONT.pack(server_round, rule.number, len(start), len(relayed)), start]
    for slot in sorted(relayed):
        payload, examples = relayed[slot]
        body += [_ENTRY.pack(slot, len(payload)), _WEIGHT.pack(examples) if rule.weighs else b"", payload]
    return pack_step(RELAY, version, before, b"".join(body))


def unpack_relay(body: bytes, before: Version, seed: int, segments: Sequence[int]) -> NDArray[np.uint16]:
    """Decode and fold what `pack_relay` wrote, from the theta before; raises PayloadError."""
    if len(body) < _FRONT.size:
        raise TruncatedPayload("the front of the relayed payloads is cut off")
    server_round, number, size, count = _FRONT.unpack_from(body)
    if count > MAX_CLIENTS:
        raise BadGeometry(f"{count} payloads; at most {MAX_CLIENTS}")
    at = _FRONT.size + size
    if len(body) < at:
        raise TruncatedPayload("the start of the aggregation is cut off")
    rule, state = rule_of(number).read_start(body[_FRONT.size : at], before.theta, count)
    entry = _ENTRY.size + (_WEIGHT.size if rule.weighs else 0)
    last = -1
    for _ in range(count):
        if len(body) < at + entry:
            raise TruncatedPayload("a relayed payload is cut off")
        slot, length = _ENTRY.unpack_from(body, at)
        weight = _WEIGHT.unpack_from(body, at + _ENTRY.size)[0] if rule.weighs else 1
        if weight == 0:
            raise BadGeometry("a relayed payload of a client without examples")
        at += entry
        if len(body) < at + length:
            raise TruncatedPayload("a relayed payload is cut off")
        if slot <= last:
            raise WrongFormat(f"slot {slot} after slot {last}")
        shared = SharedState.of(before, seed, server_round, slot, tuple(segments))
        state = fold_payload(rule, state, body[at : at + length], shared, weight)
        at, last = at + length, slot
    if at != len(body):
        raise WrongFormat(f"{len(body) - at} bytes after the last payload")
    return rule.finish(state)[0]
