"""Flower's records: replies of clients, and messages of a server, before what is in them is read.

An input is JSON, ``{name of a record: [kind, {key: value}]}``, from which the records are built: the bytes of Flower's
own format would mostly be refused by Flower. Bytes are ``{"bytes": hexadecimal}``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.random import Generator

from common.errors import BadMetric, OversizedPayload, TruncatedPayload, WrongFormat
from common.messages import (
    BALANCED,
    HELD_OUT,
    METRICS,
    PERSONAL,
    Hello,
    Part,
    name_run,
    pack_classes,
    pack_hello,
    pack_model,
    pack_update,
    unpack_check,
    unpack_classes,
    unpack_gain,
    unpack_hello,
    unpack_model,
    unpack_round,
    unpack_run,
    unpack_update,
)
from tests.fuzz.case import Case, Target
from tests.fuzz.mutations import mutate

__all__ = ["RefusedByFlower", "record_targets"]

_PART = 300
"""Most bytes of a part here."""
_DIGEST = b"12345678"
_METRICS = dict.fromkeys(METRICS, 1.0) | {"examples": 10, "accuracy": 0.5, "broken": 0}
_SHARES = {name: 0.5 for name in (*PERSONAL, *BALANCED, *HELD_OUT)} | {"tested": 3, "held_out_examples": 4}
_TEXTS = (
    "",
    "1",
    "x",
    "-1",
    "18446744073709551616",
    "9" * 5_000,
    "0x10",
    "1_0",
    "\u0663",
    "\u00b2",
    "\x1b[2J\n",
    "x" * 2_000,
)
_NUMBERS: tuple[float, ...] = (
    *(0, 1, -1, 2, 255, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, -(2**63), 10**12, 10**400),
    *(0.0, 0.5, 1.0, 1.0000001, -0.0, -1e-9, 1e12, 1.1e12, 1e308, -1e308, 5e-324, 64.0, 2.0**-8, 2.0**-9),
    *(float("nan"), float("inf"), float("-inf")),
)
_KEYS = (
    "client",
    "digest",
    "d",
    "holds",
    "payload",
    "head",
    "names",
    "first",
    "round",
    "slot",
    "check",
    "gain",
    "parts",
)


class RefusedByFlower(Exception):
    """Records that Flower does not make: they do not reach us."""


def record_targets() -> dict[str, Callable[[], Target]]:
    """By what they say."""
    return {
        "hello": lambda: _target("hello", _hellos(), {"hello": unpack_hello}, (WrongFormat,)),
        "update": _updates,
        "model": _models,
        "order": _orders,
    }


# -- what they are -----------------------------------------------------------------------------------------------------


def _target(
    name: str,
    honest: list[RecordDict],
    reads: Mapping[str, Callable[[RecordDict], object]],
    errors: tuple[type[Exception], ...],
) -> Target:
    inputs = tuple(as_json(content) for content in honest)
    cases = [
        Case(
            what,
            inputs,
            lambda rng: changed_records(rng, inputs[int(rng.integers(len(inputs)))]),
            lambda data, read=read: read(from_json(data)),
            errors=(*errors, RefusedByFlower),
        )
        for what, read in reads.items()
    ]
    return Target(name, cases)


def _hellos() -> list[RecordDict]:
    return [
        pack_hello(Hello(3, _DIGEST, 2_000_000)),
        pack_hello(Hello(2**32 - 2, _DIGEST, 0, _DIGEST, partitions=2**32 - 1)),
        pack_hello(Hello(0, _DIGEST, 1, files={"used": 12, "HEIC": 3})),
    ]


def _updates() -> Target:
    """Replies to training, with a payload, a head, or figures of images held out; and to an evaluation."""
    parts = {"payload": Part(_PART), "head": Part(_PART, required=False)}
    errors = (WrongFormat, TruncatedPayload, OversizedPayload, BadMetric)
    plain = [pack_update({"payload": b"x" * 90}, _METRICS), pack_update({"payload": b"x" * 90}, _METRICS, _DIGEST)]
    both = pack_update({"payload": b"x" * _PART, "head": b"y" * 8}, _METRICS)
    checked = pack_update({"payload": b"x" * 90}, _METRICS | {name: _SHARES[name] for name in (*PERSONAL, *HELD_OUT)})
    answer = pack_update({}, _METRICS | {name: _SHARES[name] for name in BALANCED} | {"examples": 0})

    def check(update: Any) -> None:
        assert set(update.metrics) >= set(METRICS)
        assert all(-1e12 <= value <= 1e12 for value in update.metrics.values())
        assert all(isinstance(part, bytes) and 0 < len(part) <= _PART for part in update.parts.values())
        assert update.holds is None or len(update.holds) == 8
        assert update.examples >= 0

    reads = (
        ([*plain, both], {}),
        ([*plain, both, checked], {"optional": [PERSONAL, HELD_OUT]}),
        ([answer], {"optional": [BALANCED], "least_examples": 0}),
    )
    cases = []
    for honest, form in reads:
        expected = {} if honest == [answer] else parts
        (case,) = _target(
            ", ".join(form) or "plain",
            honest,
            {
                ", ".join(form) or "plain": lambda content, expected=expected, form=form: check(
                    unpack_update(content, expected, **form)
                )
            },
            errors,
        ).cases
        cases.append(case)
    return Target("update", cases)


def _models() -> Target:
    """Parts of the global model."""
    parts = {"theta": Part(_PART), "head": Part(_PART, required=False)}
    honest = [
        RecordDict({"parts": pack_model({"theta": b"x" * _PART}), **pack_classes(["one", "two"])}),
        RecordDict({"parts": pack_model({"theta": b"x", "head": b"y" * 40})}),
    ]
    read = {"parts": lambda content: unpack_model(content, parts)}
    return _target("model", honest, read, (WrongFormat, TruncatedPayload, OversizedPayload))


def _orders() -> Target:
    """What else a message to a client says: round, gain, classes, the run."""
    order = {"round": 3, "slot": 2, "gain": 1.5, "check": 2}
    content = RecordDict({"round": ConfigRecord(order), **pack_classes(["one", "two"])})
    name_run(content, 2**64 - 1)
    reads: dict[str, Callable[[RecordDict], object]] = {
        "round": unpack_round,
        "check": unpack_check,
        "gain": unpack_gain,
        "classes": unpack_classes,
        "run": unpack_run,
    }
    return _target("order", [content], reads, (WrongFormat,))


# -- as JSON -----------------------------------------------------------------------------------------------------------


def as_json(content: RecordDict) -> bytes:
    """Records as an input."""
    return json.dumps(
        {name: [_kind(record), {k: _plain(v) for k, v in record.items()}] for name, record in content.items()}
    ).encode()


def _kind(record: object) -> str:
    return {ConfigRecord: "config", MetricRecord: "metric", ArrayRecord: "array"}[type(record)]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    return {"bytes": value.data.hex()} if isinstance(value, Array) else value


def from_json(data: bytes) -> RecordDict:
    """The inverse of `as_json`; raises RefusedByFlower."""
    built = {}
    for name, (kind, values) in json.loads(data).items():
        try:
            built[name] = _KINDS[kind]({key: _value(kind, value) for key, value in values.items()})
        except TypeError as error:
            raise RefusedByFlower(str(error)) from error
    return RecordDict(built)


def _value(kind: str, value: Any) -> Any:
    if isinstance(value, dict):
        value = bytes.fromhex(value["bytes"])
    if isinstance(value, list):
        value = [_value("config", one) for one in value]
    if kind == "array" and isinstance(value, bytes):
        return Array("uint8", (len(value),), "deltamask/bytes", value)
    return value


_KINDS = {"config": ConfigRecord, "metric": MetricRecord, "array": ArrayRecord}


# -- changed -----------------------------------------------------------------------------------------------------------


def changed_records(rng: Generator, data: bytes) -> bytes:
    """Other records, keys, types and values."""
    content = json.loads(data)
    for _ in range(min(int(rng.geometric(0.6)), 4)):
        name = _any(rng, list(content)) if content else None
        kind = int(rng.integers(16))
        if name is None or kind == 0:
            content[str(_any(rng, [*content, *_KEYS]))] = [_any(rng, list(_KINDS)), {}]
        elif kind == 1:
            del content[name]
        elif kind == 2:
            content[str(_any(rng, _KEYS))] = content.pop(name)
        elif kind == 3:
            content[name][0] = _any(rng, list(_KINDS))
        else:
            content[name][1] = _changed_values(rng, content[name][1])
    return json.dumps(content).encode()


def _changed_values(rng: Generator, values: dict[str, Any]) -> dict[str, Any]:
    values, kind = dict(values), int(rng.integers(8))
    if not values or kind == 0:
        values[str(_any(rng, [*_KEYS, *_METRICS, *_SHARES]))] = _odd_value(rng)
        return values
    key = str(_any(rng, list(values)))
    value = values[key]
    if kind == 1:
        del values[key]
    elif kind == 2:
        values[str(_any(rng, [*values, *_KEYS]))] = values.pop(key)
    elif kind == 3:
        return dict(reversed(values.items()))
    elif kind == 4 and isinstance(value, dict):
        values[key] = {"bytes": mutate(rng, bytes.fromhex(value["bytes"])).hex()}
    elif kind == 4 and isinstance(value, list):
        values[key] = [
            *value,
            *(_odd_value(rng) if rng.integers(4) == 0 else _any(rng, value or [0]) for _ in range(3)),
        ]
    elif kind == 5 and isinstance(value, (int, float)):
        values[key] = _any(rng, _NUMBERS)
    else:
        values[key] = _odd_value(rng)
    return values


def _odd_value(rng: Generator) -> Any:
    kind = int(rng.integers(6))
    if kind == 0:
        return bool(rng.integers(2))
    if kind == 1:
        return _any(rng, _TEXTS)
    if kind == 2:
        return {"bytes": rng.bytes(int(_any(rng, (0, 1, 7, 8, 9, _PART, _PART + 1)))).hex()}
    if kind == 3:
        return [_any(rng, _any(rng, (_TEXTS, _NUMBERS)))] * int(_any(rng, (0, 1, 2, 100)))
    return _any(rng, _NUMBERS)


def _any(rng: Generator, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]
