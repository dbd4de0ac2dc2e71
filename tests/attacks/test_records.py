"""The attacker sends Flower records that are not ours: other types, more keys, metrics that no client measures, text
that floods or steers the terminal it is printed on.

Every reply is checked for form before its payload is read; what is wrong is counted by a reason, shown in one short
line, and leaves no trace in theta.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from common.codecs import SharedState, get_codec
from common.errors import OversizedPayload, PayloadError, RoundError, TruncatedPayload, WrongFormat, brief
from common.messages import (
    HEAD,
    HELLO,
    Hello,
    Part,
    pack_hello,
    pack_update,
    unpack_check,
    unpack_gain,
    unpack_hello,
    unpack_model,
    unpack_round,
    unpack_run,
)
from common.wire import HEADER_BYTES, Header, pack_payload
from tests.federation import (
    CLASSES,
    DIGEST,
    FEATURES,
    METRICS,
    SEED,
    Change,
    D,
    node,
    received_theta,
    run_rounds,
    strategy,
)
from tests.grid import MemoryGrid


def edit_payload(edit: Callable[[bytes], bytes]) -> Change:
    def change(content: RecordDict, message: Message) -> list[RecordDict | Error]:
        return [pack_update({name: edit(part) for name, part in content["parts"].items()}, METRICS)]

    return change


def metrics(**values: float) -> Change:
    return lambda content, message: [pack_update({"payload": content["parts"]["payload"]}, METRICS | values)]


def typed(name: str, value: object) -> Change:
    """Another value for one metric, of a type that Flower lets through."""
    return lambda content, message: [
        RecordDict({"parts": content["parts"], "metrics": MetricRecord({**METRICS, name: value})})
    ]


def update(**values: object) -> Change:
    return lambda content, message: [
        RecordDict({"parts": ConfigRecord({**content["parts"], **values}), "metrics": content["metrics"]})
    ]


def without(record: str) -> Change:
    return lambda content, message: [RecordDict({name: content[name] for name in content if name != record})]


def slot(message: Message) -> int:
    return int(message.content["round"]["slot"])


def wrong_theta(content: RecordDict, message: Message) -> list[RecordDict | Error]:
    shared = SharedState(np.full(D, 40_000, np.uint16), SEED, 1, slot(message))
    return [pack_update({"payload": get_codec("fuse8").encode(np.full(D, 0.5, np.float32), shared)}, METRICS)]


def everything(content: RecordDict, message: Message) -> list[RecordDict | Error]:
    """A filter of all positions under a header that claims half of them."""
    theta = received_theta(message)
    shared = SharedState(theta, SEED, 1, slot(message))
    codec = get_codec("fuse8")
    payload = codec.encode(np.where(shared.mask(), 0, 1).astype(np.float32), shared)
    claims_half = pack_payload(Header(1, 1, slot(message), D, D // 2, shared.digest), payload[HEADER_BYTES:])
    return [pack_update({"payload": claims_half}, METRICS)]


HOSTILE: dict[str, tuple[str, Change]] = {
    "truncated": ("checksum", edit_payload(lambda payload: payload[:-7])),
    "nearly empty": ("truncated", edit_payload(lambda payload: payload[:5])),
    "empty": ("truncated", edit_payload(lambda payload: b"")),
    "garbled": ("checksum", edit_payload(lambda payload: payload[:200] + bytes([payload[200] ^ 1]) + payload[201:])),
    "oversized": ("oversized", edit_payload(lambda payload: payload + bytes(10_000_000))),
    "noise": ("wrong-format", edit_payload(lambda payload: bytes(1000))),
    "other theta": ("wrong-model", wrong_theta),
    "all-ones filter": ("implausible-delta", everything),
    "NaN loss": ("bad-metric", metrics(loss=math.nan)),
    "infinite seconds": ("bad-metric", metrics(seconds=math.inf)),
    "no examples": ("bad-metric", metrics(examples=0)),
    "huge weight": ("bad-metric", metrics(examples=1e300)),
    "accuracy above 1": ("bad-metric", metrics(accuracy=7.0)),
    "NaN accuracy": ("bad-metric", metrics(accuracy=math.nan)),
    "infinite examples": ("bad-metric", metrics(examples=math.inf)),
    "NaN examples": ("bad-metric", metrics(examples=math.nan)),
    "negative examples": ("bad-metric", metrics(examples=-1)),
    "negative seconds": ("bad-metric", metrics(seconds=-1.0)),
    "loss whose mean overflows": ("bad-metric", metrics(loss=1e308)),
    "loss far below zero": ("bad-metric", metrics(loss=-1e308)),
    "more digits than a float has": ("bad-metric", typed("examples", 10**400)),
    "a list for a number": ("bad-metric", typed("loss", [1.0] * 100_000)),
    "a metric more": (
        "wrong-format",
        lambda content, message: [
            RecordDict({"parts": content["parts"], "metrics": MetricRecord({**METRICS, "x" * 10**6: 1})})
        ],
    ),
    "a metric less": (
        "bad-metric",
        lambda content, message: [RecordDict({"parts": content["parts"], "metrics": MetricRecord({"loss": 1})})],
    ),
    "a key more": ("wrong-format", update(more=b"")),
    "many keys more": ("wrong-format", update(**{f"key-{i}": i for i in range(10_000)})),
    "text for a payload": ("truncated", update(payload="x" * 1000)),
    "a list for a payload": ("truncated", update(payload=[b"x"] * 1000)),
    "a long digest of what it holds": ("wrong-format", update(holds=b"x" * 10**6)),
    "a number for the digest": ("wrong-format", update(holds=8)),
    "records swapped": (
        "wrong-format",
        lambda content, message: [RecordDict({"parts": content["metrics"], "metrics": content["parts"]})],
    ),
    "nothing at all": ("wrong-format", lambda content, message: [RecordDict()]),
    "arrays": ("wrong-format", lambda content, message: [RecordDict({"parts": ArrayRecord([np.zeros(9)])})]),
    "no metrics": ("wrong-format", without("metrics")),
    "no payload": ("wrong-format", without("parts")),
    "surplus record": (
        "wrong-format",
        lambda content, message: [RecordDict({**content, "more": ConfigRecord({"list": []})})],
    ),
    "wrong types": (
        "wrong-format",
        lambda content, message: [RecordDict({"parts": MetricRecord({"payload": 1}), "metrics": content["metrics"]})],
    ),
    "exception": ("client-error", lambda content, message: [Error(2, "ValueError")]),
    "dead node": ("node-unavailable", lambda content, message: [Error(5, "gone")]),
    "silence": ("no-reply", lambda content, message: []),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_reply_is_dropped_and_counted_and_the_round_goes_on(name: str) -> None:
    reason, change = HOSTILE[name]
    honest = strategy()
    run_rounds(honest, MemoryGrid({0: node(0), 1: node(1)}))
    deltamask = strategy()
    (report,) = run_rounds(deltamask, MemoryGrid({0: node(0), 1: node(1), 2: node(2, change)}))
    assert dict(report.tally.dropped) == {reason: 1}
    assert report.tally.failures == {2: reason}
    assert set(report.tally.payload_bytes) == {0, 1}
    assert np.array_equal(deltamask.theta, honest.theta), "the bad reply left a trace"


FLOODING = "\x1b[2J\n\r\u202e" * 1_000_000


@pytest.mark.parametrize(
    "change",
    [
        HOSTILE["many keys more"][1],
        HOSTILE["a metric more"][1],
        lambda content, message: [RecordDict({FLOODING: ConfigRecord()})],
        lambda content, message: [Error(2, FLOODING)],
        lambda content, message: [Error(123_456, FLOODING)],
    ],
)
def test_what_a_client_writes_floods_no_log(change: Change, capsys: pytest.CaptureFixture[str]) -> None:
    (report,) = run_rounds(strategy(), MemoryGrid({0: node(0), 1: node(1), 2: node(2, change)}))
    assert set(report.tally.failures) == {2}
    printed = capsys.readouterr().out
    assert len(printed) < 3_000
    assert all(c.isprintable() or c == "\n" for c in printed)
    assert len(printed.splitlines()) == 1


def test_brief_leaves_a_short_line_alone() -> None:
    assert brief("a dead node: 3 of 4") == "a dead node: 3 of 4"
    assert brief("\x1b[1m\n") == "\\x1b[1m\\n"
    assert len(brief("x" * 10_000)) < 400


# -- the head, and who a client is


def head(*values: float) -> Change:
    def change(content: RecordDict, message: Message) -> list[RecordDict | Error]:
        data = struct.pack("<f", values[0]) * (CLASSES * (FEATURES + 1))
        return [pack_update({"statistics": data}, METRICS)]

    return change


HEADS: dict[str, tuple[str, Change]] = {
    "NaN": ("bad-metric", head(math.nan)),
    "infinite": ("bad-metric", head(-math.inf)),
    "so large that everybody's logits overflow": ("bad-metric", head(3e38)),
    "cut": ("bad-metric", edit_payload(lambda payload: payload[:-4])),
    "longer": ("oversized", edit_payload(lambda payload: payload + bytes(4))),
    "empty": ("truncated", edit_payload(lambda payload: b"")),
    "no payload": ("wrong-format", without("parts")),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_bad_head_is_left_out_of_the_average(name: str) -> None:
    reason, change = HEADS[name]
    honest, attacked = strategy(), strategy()
    honest.fit_head(MemoryGrid({0: node(0), 1: node(1)}), timeout=0.3)
    tally = attacked.fit_head(MemoryGrid({0: node(0), 1: node(1), 2: node(2, change, kind=HEAD)}), timeout=0.3)
    assert tally.failures == {2: reason}
    assert attacked.head.to_bytes() == honest.head.to_bytes()


HELLOS: dict[str, ConfigRecord | MetricRecord] = {
    "empty": ConfigRecord(),
    "other record": MetricRecord({"client": 1}),
    "text for a number": ConfigRecord({"client": "1", "digest": DIGEST, "d": D}),
    "a truth for a number": ConfigRecord({"client": True, "digest": DIGEST, "d": D}),
    "negative": ConfigRecord({"client": -1, "digest": DIGEST, "d": D}),
    "the server's own number": ConfigRecord({"client": 2**32 - 1, "digest": DIGEST, "d": D}),
    "beyond 32 bits": ConfigRecord({"client": 2**40, "digest": DIGEST, "d": D}),
    "long digest": ConfigRecord({"client": 1, "digest": DIGEST * 10**6, "d": D}),
    "text for a digest": ConfigRecord({"client": 1, "digest": "12345678", "d": D}),
    "more weights than fit": ConfigRecord({"client": 1, "digest": DIGEST, "d": 10**5000}),
    "long digest of what it holds": ConfigRecord({"client": 1, "digest": DIGEST, "d": D, "holds": DIGEST * 10**6}),
    "a part beyond all": ConfigRecord({"client": 3, "digest": DIGEST, "d": D, "partitions": 3}),
    "no parts": ConfigRecord({"client": 0, "digest": DIGEST, "d": D, "partitions": 0}),
    "parts beyond 32 bits": ConfigRecord({"client": 1, "digest": DIGEST, "d": D, "partitions": 10**5000}),
    "text for parts": ConfigRecord({"client": 1, "digest": DIGEST, "d": D, "partitions": "2"}),
    "a truth for parts": ConfigRecord({"client": 0, "digest": DIGEST, "d": D, "partitions": True}),
    "many keys": ConfigRecord({f"key-{i}": FLOODING[:100] for i in range(10_000)}),
}


@pytest.mark.parametrize("name", HELLOS)
def test_a_node_with_an_odd_answer_is_refused_in_one_short_line(name: str) -> None:
    with pytest.raises(WrongFormat):
        unpack_hello(RecordDict({"hello": HELLOS[name]}))
    odd = node(1, lambda content, message: [RecordDict({"hello": HELLOS[name]})], kind=HELLO)
    with pytest.raises(RoundError, match="1 usable clients") as refusal:
        run_rounds(strategy(), MemoryGrid({0: node(0), 1: odd}))
    assert len(str(refusal.value)) < 1_000


FILES: dict[str, ConfigRecord | MetricRecord] = {
    "another record": MetricRecord({"used": 1}),
    "a name of theirs": ConfigRecord({"used": 1, "/home/me/secret.png": 1}),
    "many names": ConfigRecord({f"{FLOODING[:100]}{i}": 1 for i in range(10_000)}),
    "text for a number": ConfigRecord({"used": FLOODING}),
    "a fraction": ConfigRecord({"used": 0.5}),
    "a truth": ConfigRecord({"used": True}),
    "fewer than none": ConfigRecord({"used": -1}),
    "a number that no sum takes": ConfigRecord({"used": 10**5000}),
}


@pytest.mark.parametrize("name", FILES)
def test_a_node_with_odd_counts_of_files_is_refused_in_one_short_line(name: str) -> None:
    content = RecordDict({**pack_hello(Hello(1, DIGEST, D)), "files": FILES[name]})
    with pytest.raises(WrongFormat):
        unpack_hello(content)
    odd = node(1, lambda _, message: [content], kind=HELLO)
    with pytest.raises(RoundError, match="1 usable clients") as refusal:
        run_rounds(strategy(), MemoryGrid({0: node(0), 1: odd}))
    assert len(str(refusal.value)) < 1_000


def test_an_error_for_an_answer_is_refused_in_one_short_line() -> None:
    odd = node(1, lambda content, message: [Error(2, FLOODING)], kind=HELLO)
    with pytest.raises(RoundError) as refusal:
        run_rounds(strategy(), MemoryGrid({0: node(0), 1: odd}))
    assert len(str(refusal.value)) < 1_000
    assert str(refusal.value).isprintable()


# -- what a server may send


@pytest.mark.parametrize("names", [[], ["head"], ["theta", "more"], ["theta", "head", "more"]])
def test_a_client_reads_no_other_arrays(names: list[str]) -> None:
    blob = Array("uint8", (4,), "deltamask/bytes", b"1234")
    limits = {"theta": Part(4), "head": Part(4, required=False)}
    error = TruncatedPayload if set(names) <= set(limits) else WrongFormat
    with pytest.raises(error):
        unpack_model(RecordDict({"parts": ArrayRecord(dict.fromkeys(names, blob))}), limits)


@pytest.mark.parametrize(("size", "error"), [(0, TruncatedPayload), (5, OversizedPayload)])
def test_a_client_reads_no_part_that_is_empty_or_too_large(size: int, error: type[PayloadError]) -> None:
    blob = Array("uint8", (size,), "deltamask/bytes", bytes(size))
    with pytest.raises(error):
        unpack_model(RecordDict({"parts": ArrayRecord({"theta": blob})}), {"theta": Part(4)})


ORDER = {"round": 3, "slot": 2, "gain": 1.5, "check": 2}
ORDERS: dict[str, tuple[Callable[[RecordDict], object], dict[str, object] | None]] = {
    "no record for the round": (unpack_round, None),
    "no record for the check": (unpack_check, None),
    "no record for the gain": (unpack_gain, None),
    "no round": (unpack_round, {"slot": 2}),
    "no slot": (unpack_round, {"round": 3}),
    "text for a round": (unpack_round, ORDER | {"round": "three"}),
    "bytes for a slot": (unpack_round, ORDER | {"slot": b"\2"}),
    "an infinite round": (unpack_round, ORDER | {"round": math.inf}),
    "a slot below 0": (unpack_round, ORDER | {"slot": -1}),
    "a round beyond 32 bits": (unpack_round, ORDER | {"round": 2**32}),
    "a check below 0": (unpack_check, ORDER | {"check": -1}),
    "text for a check": (unpack_check, ORDER | {"check": "2"}),
    "a gain that is none": (unpack_gain, ORDER | {"gain": math.nan}),
    "no gain": (unpack_gain, {"round": 3, "slot": 2}),
}


@pytest.mark.parametrize("name", ORDERS)
def test_a_client_takes_no_odd_order(name: str) -> None:
    unpack, values = ORDERS[name]
    wrong = {} if values is None else {"round": ConfigRecord(values)}
    for content in (RecordDict(wrong), RecordDict({"round": MetricRecord(METRICS)})):
        with pytest.raises(WrongFormat):
            unpack(content)


@pytest.mark.parametrize("first", ["", "x", "-1", "\u0663", str(2**64), "9" * 5_000, 3])
def test_a_run_has_a_number(first: object) -> None:
    with pytest.raises(WrongFormat):
        unpack_run(RecordDict({"run": ConfigRecord({"first": first})}))
    assert unpack_run(RecordDict({"run": ConfigRecord({"first": str(2**64 - 1)})})) == 2**64 - 1
