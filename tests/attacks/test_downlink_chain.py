"""A hostile server (or a damaged file) sends a client a theta that does not end, does not fit, or is none.

A chain has a largest size and number of versions, each version a largest number of clients, of values and of contexts;
nothing is inflated beyond what d asks for; and what comes out must have the digest that it says, and no zeros.
"""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from common.aggregation import fold_payload
from common.aggregation.beta import BetaRule, empty_posterior, fold, mode
from common.aggregation.flips import FlipsRule
from common.codecs import SharedState, get_codec
from common.downlink import (
    MAX_STEPS,
    Relayed,
    apply_chain,
    join_chain,
    max_chain_bytes,
    pack_change,
    pack_exact,
    pack_float32,
    pack_quantised,
    pack_relay,
    read_step,
)
from common.downlink.change import unpack_change
from common.entropy import decode_symbols
from common.errors import (
    BadGeometry,
    OversizedPayload,
    PayloadError,
    TruncatedPayload,
    WrongFormat,
    WrongModel,
    WrongSlot,
)
from common.theta import Version, quantise, theta_digest
from tests.conftest import local_step

SEED, D, SEGMENTS, CLIENTS = 5, 6_000, (4_000, 2_000), (0, 1, 2, 3)
FLOAT32, QUANTISED, EXACT = 1, 2, 3
RNG = np.random.default_rng(0)
OLD = quantise(np.clip(RNG.binomial(10, 0.93, D) / 10, 0.01, 0.99))
NEW = quantise(np.clip(RNG.binomial(10, 0.93, D) / 10, 0.01, 0.99))
HEADER = 24


def exact(theta: np.ndarray = NEW, base: np.ndarray = OLD) -> bytes:
    step = pack_exact(Version(theta), Version(base), SEED, 1, CLIENTS)
    assert step is not None
    return step


def sealed(form: int, body: bytes, theta: np.ndarray = NEW, base: np.ndarray | None = None, d: int = D) -> bytes:
    """A version whose header and checksum are right, whatever the body is."""
    data = struct.pack("<2sBBI", b"DT", 1, form, d) + theta_digest(theta)
    data += (bytes(8) if base is None else theta_digest(base)) + body
    return data + zlib.crc32(data).to_bytes(4, "little")


def receive(steps: list[bytes], held: np.ndarray | None = OLD) -> np.ndarray:
    return apply_chain(join_chain(steps), None if held is None else Version(held), D, SEED, SEGMENTS).theta


def values(theta: np.ndarray) -> bytes:
    palette = np.unique(theta)
    return struct.pack("<H", len(palette)) + palette.astype("<u2").tobytes()


WHOLE, STEP = pack_quantised(Version(NEW), SEGMENTS), exact()
EXACT_FRONT = 6 + 4 * len(CLIENTS)
EXACT_BODY = STEP[HEADER:-4]


def relayed() -> tuple[bytes, np.ndarray]:
    """A round's payloads, and the theta that they give."""
    payloads, posterior = {}, empty_posterior(D)
    for slot in CLIENTS:
        shared = SharedState(OLD, SEED, 1, slot, SEGMENTS)
        payloads[slot] = get_codec("relative").encode(local_step(OLD, slot), shared)
        posterior = fold(posterior, get_codec("relative").decode(payloads[slot], shared))
    rule, relayed = BetaRule(), {slot: Relayed(payload, 1) for slot, payload in payloads.items()}
    start = rule.pack_start(empty_posterior(D), OLD)
    step = pack_relay(Version(mode(posterior)), Version(OLD), rule, start, 1, relayed)
    assert step is not None
    return step, mode(posterior)


def changed() -> tuple[bytes, np.ndarray]:
    """What a round of flips has added to theta, and the theta that it gives."""
    rule, sizes = FlipsRule(), {}
    state = rule.start(OLD, None, 1)
    for slot in CLIENTS:
        shared = SharedState(OLD, SEED, 1, slot, SEGMENTS)
        payload = get_codec("exact").encode(local_step(OLD, slot), shared)
        sizes[slot], state = len(payload), fold_payload(rule, state, payload, shared, 4 * slot + 1)
    after, change = rule.finish(state)[0], rule.change(state)
    step = pack_change(Version(after), Version(OLD), change, SEED, 1, sizes, SEGMENTS)
    assert step is not None
    return step, after


FORMS = {
    "float32": (pack_float32(Version(NEW)), NEW),
    "quantised": (WHOLE, NEW),
    "exact": (STEP, NEW),
    "relay": relayed(),
    "change": changed(),
}


@pytest.mark.parametrize("form", FORMS)
def test_damage_under_a_checksum_that_fits(form: str) -> None:
    rng = np.random.default_rng(1)
    step, after = FORMS[form]
    base = OLD if form in ("exact", "relay", "change") else None
    for trial in range(150):
        body = bytearray(step[HEADER:-4])
        if trial % 3 == 0:
            body = body[: rng.integers(len(body))]
        else:
            for _ in range(trial % 5 + 1):
                body[rng.integers(min(len(body), 200) if trial % 2 else len(body))] ^= 1 << rng.integers(8)
        try:
            theta = receive([sealed(step[3], bytes(body), after, base)])
        except PayloadError:
            continue
        assert np.array_equal(theta, after), "another theta was accepted"


@pytest.mark.parametrize("form", FORMS)
def test_cut_at_every_length(form: str) -> None:
    step, _ = FORMS[form]
    for length in [*range(100), *range(100, len(step), 97)]:
        for chain in (join_chain([step])[: 4 + length], join_chain([step[:length]])):
            with pytest.raises(PayloadError):
                apply_chain(chain, Version(OLD), D, SEED, SEGMENTS)
        with pytest.raises(PayloadError):
            read_step(step[:length], D)


@pytest.mark.parametrize("length", [0, 1, 27, 2**31, 2**32 - 1])
def test_lengths_that_lie(length: int) -> None:
    for chain in (
        b"",
        STEP[:3],
        length.to_bytes(4, "little") + STEP,
        join_chain([STEP]) + length.to_bytes(4, "little"),
    ):
        with pytest.raises(PayloadError):
            apply_chain(chain, Version(OLD), D, SEED, SEGMENTS)


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, b"DM"), (2, b"\2"), (3, b"\0"), (3, b"\4"), (3, b"\x08"), (4, b"\1\0\0\0"), (4, b"\xff" * 4)],
)
def test_fields_of_the_header(place: int, value: bytes) -> None:
    data = STEP[:place] + value + STEP[place + len(value) : -4]
    with pytest.raises((WrongFormat, WrongModel)):
        receive([data + zlib.crc32(data).to_bytes(4, "little")])


@pytest.mark.parametrize(
    ("place", "value", "error"),
    [
        (4, b"\0", WrongFormat),  # number of the rule
        (4, b"\xff", WrongFormat),
        (5, struct.pack("<H", 17), BadGeometry),  # bytes of its start
        (5, struct.pack("<H", 65_535), TruncatedPayload),
        (7, struct.pack("<H", 1025), BadGeometry),  # payloads
        (7, struct.pack("<H", 5), TruncatedPayload),
        (7, struct.pack("<H", 3), WrongFormat),
        (9, struct.pack("<H", 65_535), BadGeometry),  # masks before the round
        (11, struct.pack("<d", np.nan), BadGeometry),  # prior
        (11, struct.pack("<d", 0.5), BadGeometry),
        (19, struct.pack("<d", np.nan), BadGeometry),  # clip
        (19, struct.pack("<d", 0.5), BadGeometry),
        (27, struct.pack("<I", 1), WrongSlot),  # the first slot, which its payload names too
    ],
)
def test_a_relay_whose_front_lies(place: int, value: bytes, error: type[PayloadError]) -> None:
    step, after = FORMS["relay"]
    body = step[HEADER:-4]
    with pytest.raises(error):
        receive([sealed(step[3], body[:place] + value + body[place + len(value) :], after, OLD)])


@pytest.mark.parametrize(
    ("place", "value", "error"),
    [
        (4, struct.pack("<H", 0), BadGeometry),  # highest slot + 1
        (4, struct.pack("<H", 1025), BadGeometry),
        (6, b"\x00", BadGeometry),  # nobody took part
        (6, b"\xf8", BadGeometry),  # a fifth slot of four
        (7, b"\xff", BadGeometry),  # remoteness of the first
        (11, struct.pack("<H", 0), BadGeometry),  # clip
        (11, struct.pack("<H", 32_768), BadGeometry),
        (13, struct.pack("<I", 2**32 - 1), TruncatedPayload),  # bytes of the common changes
        (17, struct.pack("<I", 2**32 - 1), TruncatedPayload),  # bytes of the shares
        (17, struct.pack("<I", 0), BadGeometry),
    ],
)
def test_a_change_whose_front_lies(place: int, value: bytes, error: type[PayloadError]) -> None:
    step, after = FORMS["change"]
    body = step[HEADER:-4]
    with pytest.raises(error):
        receive([sealed(step[3], body[:place] + value + body[place + len(value) :], after, OLD)])


def test_a_table_of_a_change_is_inflated_to_the_size_expected_and_no_further() -> None:
    body, bomb = FORMS["change"][0][HEADER:-4], zlib.compress(bytes(10**8), 9)
    for place in (13, 17):
        bombed = body[:place] + struct.pack("<I", len(bomb)) + bomb
        tracemalloc.start()
        try:
            with pytest.raises(BadGeometry, match="a table of"):
                unpack_change(bombed, OLD, SEED, SEGMENTS)
            assert tracemalloc.get_traced_memory()[1] < 2**20 + 16 * D
        finally:
            tracemalloc.stop()


def test_bases_in_a_circle_end() -> None:
    """OLD to NEW and back: each version is decoded once, in the order of the chain."""
    there, back = exact(NEW, OLD), exact(OLD, NEW)
    assert np.array_equal(receive([there, back] * 8, OLD), OLD)
    assert np.array_equal(receive([back, there] * 8, OLD), NEW)
    itself = sealed(EXACT, EXACT_BODY, theta=NEW, base=NEW)
    with pytest.raises(WrongModel):
        receive([itself])


def test_a_version_on_top_of_another_than_it_says() -> None:
    other, stranger = np.full(D, 66, np.uint16), np.full(D, 77, np.uint16)
    for chain, held in (([WHOLE, exact(other, OLD)], None), ([STEP, exact(other, stranger)], OLD)):
        with pytest.raises(WrongModel, match="the one before it"):
            receive(chain, held)
    for base in (None, stranger):  # without a base, and with one that nobody holds
        for holding in (None, OLD):
            with pytest.raises(WrongModel):
                receive([sealed(EXACT, EXACT_BODY, base=base)], holding)
    # What comes before the version that the client starts at is not looked at.
    assert np.array_equal(receive([exact(other, stranger), STEP]), NEW)


def test_more_versions_than_a_server_keeps() -> None:
    """Small ones, so that it is not the length of the chain that stops them."""
    near = OLD.copy()
    near[:3] = OLD[3:6]
    steps = [exact(near, OLD), exact(OLD, near)] * MAX_STEPS
    assert np.array_equal(receive([*steps[: MAX_STEPS - 1]]), near)
    with pytest.raises(BadGeometry, match="versions"):
        receive(steps[: MAX_STEPS + 1])


def test_a_chain_longer_than_theta_itself() -> None:
    with pytest.raises(OversizedPayload):
        apply_chain(bytes(max_chain_bytes(D) + 1), Version(OLD), D, SEED, SEGMENTS)
    assert len(join_chain([pack_float32(Version(NEW))])) < max_chain_bytes(D)


@pytest.mark.parametrize("held", [None, OLD])
def test_a_theta_of_zeros(held: np.ndarray | None) -> None:
    """A probability of 0 has no score: whoever trained from it would get infinities."""
    zero = NEW.copy()
    zero[D // 2] = 0
    packed = struct.pack("<H", 0) + zlib.compress(zero.astype("<u2").tobytes())
    coded = pack_quantised(Version(zero), SEGMENTS)[HEADER:-4]
    for body in (packed, coded):
        with pytest.raises(BadGeometry, match="probability of 0"):
            receive([sealed(QUANTISED, body, theta=zero)], held)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.5])
def test_probabilities_that_are_none(value: float) -> None:
    probability = np.full(D, 0.5, "<f4")
    probability[7] = value
    with pytest.raises(BadGeometry):
        receive([sealed(FLOAT32, probability.tobytes())])


def test_palettes_that_lie() -> None:
    rest = WHOLE[HEADER:-4][len(values(NEW)) :]
    front, behind = EXACT_BODY[:EXACT_FRONT], EXACT_BODY[EXACT_FRONT + len(values(NEW)) :]
    for palette in (
        struct.pack("<H", 1025) + bytes(2050),
        struct.pack("<H", 65_535),
        struct.pack("<H", 1000) + bytes(100),
        struct.pack("<HH", 1, 0),
        values(NEW)[:-2],
        struct.pack("<H", 2) + bytes(4),
    ):
        with pytest.raises(PayloadError):
            receive([sealed(QUANTISED, palette + rest)])
        with pytest.raises(PayloadError):
            receive([sealed(EXACT, front + palette + behind, base=OLD)])


@pytest.mark.parametrize("clients", [[0] * 4, [1, 0, 2, 3], list(range(1025)), [7] * 1024, list(range(65_535))])
def test_too_many_clients_or_one_over_and_over(clients: list[int]) -> None:
    """Every receiver draws a mask for each."""
    front = struct.pack("<IH", 1, len(clients)) + np.array(clients, "<u4").tobytes()
    for body in (front + EXACT_BODY[EXACT_FRONT:], front[:-1], front):
        with pytest.raises(PayloadError):
            receive([sealed(EXACT, body, base=OLD)])


def test_an_unknown_kind_of_context() -> None:
    at = EXACT_FRONT + len(values(NEW))
    for kind in (2, 255):
        with pytest.raises(PayloadError):
            receive([sealed(EXACT, EXACT_BODY[:at] + bytes([kind]) + EXACT_BODY[at + 1 :], base=OLD)])
    with pytest.raises(TruncatedPayload):
        receive([sealed(EXACT, EXACT_BODY[:at], base=OLD)])


@pytest.mark.parametrize("where", ["theta", "table"])
def test_a_zlib_bomb_is_inflated_to_the_size_expected_and_no_further(where: str) -> None:
    bomb = zlib.compress(bytes(10**8), 9)
    body = b"\0\0" + bomb if where == "theta" else values(NEW) + struct.pack("<I", len(bomb)) + bomb
    step = sealed(QUANTISED, body)
    d = len(step)  # large enough for the bomb itself to be let in
    theta = np.full(d, 5, np.uint16)
    step = sealed(QUANTISED, body, theta=theta, d=d)
    tracemalloc.start()
    try:
        with pytest.raises(PayloadError):
            apply_chain(join_chain([step]), None, d, SEED, (d,))
        assert tracemalloc.get_traced_memory()[1] < 2**20 + 16 * d
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("tail", [b"x", bytes(1000)])
def test_bytes_behind_a_deflated_theta_or_table(tail: bytes) -> None:
    packed = b"\0\0" + zlib.compress(NEW.astype("<u2").tobytes())
    assert np.array_equal(receive([sealed(QUANTISED, packed)]), NEW)
    with pytest.raises(TruncatedPayload):
        receive([sealed(QUANTISED, packed + tail)])
    with pytest.raises(TruncatedPayload):
        receive([sealed(QUANTISED, packed[:-1])])


def test_tables_of_frequencies_that_are_none() -> None:
    """For 3 symbols in 2 contexts: sums that are not one, symbols that do not occur, one context left out."""
    contexts = (np.arange(100) % 2).astype(np.uint16)
    for table in (
        [[4096, 0, 0], [0, 0, 0]],
        [[4095, 0, 0], [4096, 0, 0]],
        [[65_535, 4097, 0], [4096, 0, 0]],
        [[1, 1, 1], [4096, 0, 0]],
        [[4096, 0, 0]],
        [[4096, 0, 0]] * 3,
    ):
        packed = zlib.compress(np.array(table, "<u2").tobytes())
        with pytest.raises(BadGeometry):
            decode_symbols(struct.pack("<I", len(packed)) + packed, contexts, 3, 2)
    for alphabet, classes in ((0, 2), (4097, 2), (1024, 1025), (2**20, 2**20)):
        with pytest.raises(BadGeometry):
            decode_symbols(bytes(100), contexts, alphabet, classes)


def test_words_that_no_encoder_wrote() -> None:
    rng = np.random.default_rng(2)
    contexts = rng.integers(0, 50, 20_000, dtype=np.uint16)
    table = np.zeros((50, 40), np.int64)
    for row in table:
        row[rng.choice(40, 8, replace=False)] = [4089, 1, 1, 1, 1, 1, 1, 1]
    packed = zlib.compress(table.astype("<u2").tobytes())
    front = struct.pack("<I", len(packed)) + packed
    for words in (b"", bytes(4), b"\xff" * 4, *(rng.bytes(4 * int(size)) for size in rng.integers(0, 400, 60))):
        try:
            symbols = decode_symbols(front + words, contexts, 40, 50)
        except PayloadError:
            continue
        assert (table[contexts, symbols] > 0).all(), "a symbol came out that its context does not have"


def test_a_relayed_client_without_examples_is_refused() -> None:
    rule, shared = FlipsRule(), SharedState(OLD, SEED, 1, 0, SEGMENTS)
    payload, start = get_codec("exact").encode(local_step(OLD, 0), shared), rule.start(OLD, None, 1)
    after = rule.finish(fold_payload(rule, start, payload, shared, 1))[0]
    first = rule.pack_start(start, OLD)
    for examples in (1, 0):
        step = pack_relay(Version(after), Version(OLD), rule, first, 1, {0: Relayed(payload, examples)})
        assert step is not None
        if examples:
            assert np.array_equal(receive([sealed(step[3], step[HEADER:-4], after, OLD)]), after)
        else:
            with pytest.raises(BadGeometry, match="without examples"):
                receive([sealed(step[3], step[HEADER:-4], after, OLD)])
