"""Lottery tickets: how a client prunes, what travels, and what lies on its disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import PayloadError
from common.methods.fedavg.payload import WEIGHTS as FEDAVG
from common.methods.fedavg.vector import split_weights
from common.methods.lotteryfl.downwards import pack_everything, pack_kept, unpack_global_weights
from common.methods.lotteryfl.ticket import TICKETS, pack_mask, pack_ticket, ticket_bytes, unpack_ticket
from common.models.heads import Head
from common.wire import HEADER_BYTES, Header, pack_payload
from deltamask_client.methods.lotteryfl.pruning import prune
from deltamask_client.methods.lotteryfl.store import Ticket, TicketStore
from deltamask_server.tools.cli.inspect import explain
from tests.federation import CLASSES, FEATURES

TAIL_COUNT = 50
COUNT = TAIL_COUNT + CLASSES * (FEATURES + 1)  # 65: seven bits of the mask's last byte are behind its end
BASE = b"12345678"


# -- pruning


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.booleans()), max_size=40),
    st.integers(1, 19),
    st.integers(1, 20),
)
def test_so_many_of_the_smallest_go(weights: list[tuple[int, bool, bool]], step: int, density: int) -> None:
    values, kept, prunable = (np.array([row[i] for row in weights]) for i in range(3))
    kept, prunable = kept.astype(bool), prunable.astype(bool)
    found = prune(values.astype(np.float32), kept, prunable, step / 20, density / 20)
    # The count in fractions, and the order as a list: of equal magnitudes the lower position goes first.
    left = [p for p in range(len(weights)) if kept[p] and prunable[p]]
    at_least = -(-int(prunable.sum()) * density // 20)
    count = max(0, min(-(-len(left) * step // 20), len(left) - at_least))
    gone = sorted(left, key=lambda p: (abs(values[p]), p))[:count]
    assert sorted(np.flatnonzero(kept & ~found)) == sorted(gone)
    assert not (found & ~kept).any()
    assert (found is kept) == (count == 0)


def test_step_by_step_it_ends_at_the_density() -> None:
    weights, prunable = np.random.default_rng(0).standard_normal(1003).astype(np.float32), np.arange(1003) < 1000
    kept, sizes = np.ones(1003, np.bool_), []
    while (smaller := prune(weights, kept, prunable, 0.2, 0.3)) is not kept:
        kept = smaller
        sizes.append(int(kept[:1000].sum()))
    assert sizes == [800, 640, 512, 409, 327, 300]
    assert kept[1000:].all()
    assert np.abs(weights[:1000][kept[:1000]]).min() > np.abs(weights[:1000][~kept[:1000]]).max()


# -- payloads


def ticket(seed: int = 0, share: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(COUNT).astype(np.float32), rng.random(COUNT) < share


def bits(kept: np.ndarray) -> bytes:
    return pack_mask(kept).tobytes()


def test_a_payload_is_bits_and_floats() -> None:
    weights, kept = np.array([1.0, 2.0, 3.0, -0.5, 0, 0, 0, 0, 2.0**-20], np.float32), np.zeros(9, np.bool_)
    kept[[0, 3, 8]] = True
    payload = pack_ticket(weights, kept, 3, 1, BASE)
    assert payload[:4] == b"DM\x01\x04"
    assert payload[HEADER_BYTES:] == bytes.fromhex("0901 0000803f 000000bf 00008035")
    found, values = unpack_ticket(payload, 9, 3, 1, BASE)
    assert np.array_equal(found, kept)
    assert np.array_equal(values, weights[kept])
    assert len(pack_ticket(weights, np.ones(9, np.bool_), 3, 1, BASE)) == ticket_bytes(9)
    assert unpack_ticket(pack_ticket(weights, kept & False, 3, 1, BASE), 9, 3, 1, BASE)[1].shape == (0,)


WEIGHTS, KEPT = ticket()
N = int(KEPT.sum())
BITS, VALUES = bits(KEPT), WEIGHTS[KEPT].tobytes()
FIELDS = Header(0, 3, 1, COUNT, N, BASE, TICKETS)
BAD: dict[str, tuple[str, Header, bytes]] = {
    "a one more in the mask": ("bad-code", FIELDS, bits(KEPT | (np.arange(COUNT) == KEPT.argmin())) + VALUES),
    "a one less in the mask": ("bad-code", FIELDS, bits(KEPT & (np.arange(COUNT) != KEPT.argmax())) + VALUES),
    "a mask of zeros": ("bad-code", FIELDS, bytes(len(BITS)) + VALUES),
    "a one behind the end": ("bad-code", FIELDS, BITS[:-1] + bytes([BITS[-1] | 128]) + VALUES),
    "a one behind the end, counted": (
        "bad-code",
        replace(FIELDS, n=N + 1),
        BITS[:-1] + bytes([BITS[-1] | 128]) + VALUES + bytes(4),
    ),
    "fewer values": ("truncated", FIELDS, BITS + VALUES[:-4]),
    "part of a value": ("truncated", FIELDS, BITS + VALUES[:-1]),
    "no values": ("truncated", FIELDS, BITS),
    "no mask": ("truncated", FIELDS, b""),
    "more values": ("wrong-model", FIELDS, BITS + VALUES + bytes(4)),
    "more values and n": ("bad-code", replace(FIELDS, n=N + 1), BITS + VALUES + bytes(4)),
    "n above d": ("wrong-model", replace(FIELDS, n=COUNT + 1), BITS + VALUES),
    "huge n": ("wrong-model", replace(FIELDS, n=2**32 - 1), BITS + VALUES),
    "another d": ("wrong-model", replace(FIELDS, d=COUNT + 1), BITS + VALUES),
    "huge d and n": ("wrong-model", replace(FIELDS, d=2**32 - 1, n=2**32 - 1), BITS + VALUES),
    "NaN": ("bad-metric", FIELDS, BITS + np.float32(np.nan).tobytes() + VALUES[4:]),
    "infinite": ("bad-metric", FIELDS, BITS + VALUES[:-4] + np.float32(-np.inf).tobytes()),
    "too large": ("bad-metric", FIELDS, BITS + np.float32(256.5).tobytes() + VALUES[4:]),
    "another round": ("wrong-round", replace(FIELDS, round=2), BITS + VALUES),
    "another slot": ("wrong-slot", replace(FIELDS, slot=0), BITS + VALUES),
    "other weights": ("wrong-model", replace(FIELDS, base_digest=b"otherone"), BITS + VALUES),
    "method fedavg": ("wrong-format", replace(FIELDS, method=FEDAVG), BITS + VALUES),
    "a codec": ("wrong-format", replace(FIELDS, codec=1), BITS + VALUES),
    "version 2": ("wrong-format", replace(FIELDS, version=2), BITS + VALUES),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_payload_is_refused_by_its_reason(name: str) -> None:
    reason, header, body = BAD[name]
    with pytest.raises(PayloadError) as refusal:
        unpack_ticket(pack_payload(header, body), COUNT, 3, 1, BASE)
    assert refusal.value.reason == reason


def test_damage_of_any_kind_is_noticed() -> None:
    payload = pack_payload(FIELDS, BITS + VALUES)
    assert np.array_equal(unpack_ticket(payload, COUNT, 3, 1, BASE)[0], KEPT)
    damaged = [payload[:length] for length in range(len(payload))]
    damaged += [
        payload[:at] + bytes([payload[at] ^ 1 << bit]) + payload[at + 1 :] for at in range(60) for bit in (0, 7)
    ]
    for bad in damaged:
        with pytest.raises(PayloadError):
            unpack_ticket(bad, COUNT, 3, 1, BASE)


def test_inspect_explains_them() -> None:
    payload = pack_ticket(np.array([-0.5, 9.0, 2.0], np.float32), np.array([True, False, True]), 3, 1, BASE)
    lines, refused = explain(payload)
    assert refused is None
    assert "lotteryfl" in dict(lines)["format"]
    assert dict(lines)["values"] == "-0.5 to 2"
    assert dict(lines)["kept"].startswith("2, 66.7 % of them")
    for bad, reason in ((payload[:-1] + b"x", "checksum"), (pack_payload(FIELDS, BITS), "truncated")):
        _, refused = explain(bad)
        assert refused is not None
        assert refused.reason == reason


# -- downwards


def test_a_client_reads_what_it_keeps_or_everything() -> None:
    weights, kept = ticket()
    tail, head = split_weights(weights, CLASSES, FEATURES)
    first = Head(np.full((CLASSES, FEATURES), 0.25, np.float32), np.ones(CLASSES, np.float32))
    shape = TAIL_COUNT, CLASSES, FEATURES
    everything, some = pack_everything(tail, first, BASE), pack_kept(weights, kept, BASE)
    assert len(some) == 16 + 4 * kept.sum()
    found = unpack_global_weights(everything, head, kept, *shape)
    assert np.array_equal(found.weights, weights)
    assert found.initial_head is not None
    assert found.initial_head.to_bytes() == first.to_bytes()
    found = unpack_global_weights(some, None, kept, *shape)
    assert np.array_equal(found.weights, weights * kept)
    assert (found.digest, found.initial_head) == (BASE, None)
    for data, beside, mask in [
        (some, None, ~kept),
        (some[:-4], None, kept),
        (some + bytes(4), None, kept),
        (some[:15], None, kept),
        (everything, None, kept),
        (everything[:-1], head, kept),
        (everything + bytes(4), head, kept),
        (b"", head, kept),
    ]:
        with pytest.raises(PayloadError):
            unpack_global_weights(data, beside, mask, *shape)


# -- on the disk


def test_tickets_of_two_runs_do_not_meet(tmp_path: Path) -> None:
    ones = Head(np.ones((2, 3), np.float32), np.zeros(2, np.float32))
    kept = np.arange(21) % 3 > 0
    assert TicketStore(tmp_path, 1, 1).save(Ticket(kept, ones, ("a", "b")))
    found = TicketStore(tmp_path, 1, 1).load()
    assert found is not None
    assert np.array_equal(found.kept, kept)
    assert (found.initial_head.to_bytes(), found.classes) == (ones.to_bytes(), ("a", "b"))
    assert TicketStore(tmp_path, 1, 2).load() is None
    assert TicketStore(tmp_path, 2, 1).load() is None
    assert [path.name for path in (tmp_path / "tickets").iterdir()] == ["run-1-client-1.safetensors"]
