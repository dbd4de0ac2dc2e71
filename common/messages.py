"""What travels in a Flower message, and under which names; the only place where record keys are spelt.

    server -> client   query          {}                                     who are you, and is your frozen model mine?
    client -> server                  "hello":   ConfigRecord                client, digest of the frozen weights, d
    server -> client   train.head     {}                                     fit a linear probe
    client -> server                  "update":  ConfigRecord {payload}      the head's bytes
    server -> client   train          "arrays":  ArrayRecord {theta, head}   one blob each
                                      "round":   ConfigRecord {round}
    client -> server                  "update":  ConfigRecord {payload}      the encoded delta: one blob, one bytes
    value
                                      "metrics": MetricRecord                both replies carry it

Uplink payloads are below a megabyte, where one bytes value costs least around it; theta may be a hundred, where a
(chunked) Array does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from common.errors import BadMetric, OversizedPayload, TruncatedPayload, WrongFormat, WrongModel
from common.models.head import Head

__all__ = [
    "HEAD",
    "HELLO",
    "TRAIN",
    "Hello",
    "Update",
    "pack_global",
    "pack_hello",
    "pack_update",
    "unpack_global",
    "unpack_hello",
    "unpack_update",
]

HELLO, HEAD, TRAIN = "query", "train.head", "train"

METRICS = ("examples", "loss", "accuracy", "seconds")


@dataclass(frozen=True)
class Hello:
    """How a client introduces itself."""

    client: int
    backbone_digest: bytes
    masked_parameters: int


@dataclass(frozen=True)
class Update:
    """One reply of one client, checked for form but not yet decoded."""

    payload: bytes
    metrics: Mapping[str, float]
    """The keys of ``METRICS``: examples (at least 1), loss, accuracy in [0, 1], seconds; all finite."""

    @property
    def examples(self) -> int:
        """Local training images."""
        return int(self.metrics["examples"])


def pack_hello(hello: Hello) -> RecordDict:
    """A client's answer to a query."""
    return RecordDict(
        {"hello": ConfigRecord({"client": hello.client, "digest": hello.backbone_digest, "d": hello.masked_parameters})}
    )


def unpack_hello(content: RecordDict) -> Hello:
    """Read a client's answer; raises WrongFormat."""
    record = content.get("hello")
    values = dict(record) if isinstance(record, ConfigRecord) else {}
    client, digest, d = values.get("client"), values.get("digest"), values.get("d")
    if type(client) is not int or type(digest) is not bytes or type(d) is not int or not 0 <= client < 2**32 - 1:
        raise WrongFormat(f"an answer to the query with {sorted(values)} instead of client, digest, d")
    return Hello(client, digest, d)


def pack_global(theta: NDArray[np.uint16], head: Head) -> ArrayRecord:
    """The global model: theta as little-endian uint16 and the frozen head, each one blob."""
    blobs = {"theta": theta.astype("<u2", copy=False).tobytes(), "head": head.to_bytes()}
    return ArrayRecord({name: Array("uint8", (len(data),), "deltamask/bytes", data) for name, data in blobs.items()})


def unpack_global(arrays: ArrayRecord, d: int, classes: int, features: int) -> tuple[NDArray[np.uint16], Head]:
    """Read what `pack_global` wrote.

    Raises
    ------
    WrongModel
        If theta has another length than this model has masked weights.
    """
    data = arrays["theta"].data
    if len(data) != 2 * d:
        raise WrongModel(f"theta has {len(data) // 2} entries; this model has {d} masked weights")
    theta = np.frombuffer(data, "<u2").astype(np.uint16)
    return theta, Head.from_bytes(arrays["head"].data, classes, features)


def pack_update(payload: bytes, metrics: Mapping[str, float]) -> RecordDict:
    """A client's reply to a training message."""
    return RecordDict({"update": ConfigRecord({"payload": payload}), "metrics": MetricRecord(dict(metrics))})


def unpack_update(content: RecordDict, max_bytes: int) -> Update:
    """Check the form of a reply; its payload is decoded later, by the codec.

    Raises
    ------
    WrongFormat
        If there are other records or keys than ours.
    TruncatedPayload, OversizedPayload
        If there is no payload, or more than ``max_bytes``.
    BadMetric
        If a metric is missing, not a finite number, or out of range.
    """
    record, metrics = content.get("update"), content.get("metrics")
    if (
        len(content) != 2
        or not isinstance(record, ConfigRecord)
        or not isinstance(metrics, MetricRecord)
        or len(record) > 1
        or len(metrics) > len(METRICS)
    ):
        raise WrongFormat(f"a reply with records {sorted(content)}; expected update and metrics with their own keys")
    payload = record.get("payload")
    if not isinstance(payload, bytes) or not payload:
        raise TruncatedPayload("the reply carries no payload")
    if len(payload) > max_bytes:
        raise OversizedPayload(f"{len(payload)} bytes; at most {max_bytes} here")
    values: dict[str, float] = {}
    for name in METRICS:
        value = metrics.get(name)
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise BadMetric(f"metric {name} = {value!r}; a finite number is needed")
        values[name] = value
    if not 1 <= values["examples"] <= 2**40 or not 0 <= values["accuracy"] <= 1 or values["seconds"] < 0:
        raise BadMetric(f"a metric is out of range: {values}")
    return Update(payload, values)
