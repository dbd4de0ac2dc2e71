"""What travels in a Flower message, and under which names; the only place where record keys are spelt.

    server -> client   query          "classes": ConfigRecord {names}        who are you, and is your frozen model mine?
    client -> server                  "hello":   ConfigRecord                client, digest of frozen weights, d, holds
    server -> client   train.head     "classes": ConfigRecord {names}        measure what the head is made of
    client -> server                  "update":  ConfigRecord {payload}      statistics of `common.models.heads`
    server -> client   train          "arrays":  ArrayRecord {theta, head}   one blob each; the head when it is new
                                                    also {subnetwork}        under hidenseek, for those who hold none
                                      "classes": ConfigRecord {names}        with the head, whose rows they name
                                      "round":   ConfigRecord {round, slot}
    client -> server                  "update":  ConfigRecord {payload}      the encoded delta: one blob, one bytes
    value; where the head is trained too also {head}
                                      "metrics": MetricRecord                every reply but the first carries it;
    after training, where the run asks for it, with {personal, tested}
    server -> client   evaluate       "arrays", "classes"                    as above: how good is it on your images?
    client -> server                  "update":  ConfigRecord {holds}        no payload
                                      "metrics": MetricRecord

Uplink payloads are below a megabyte, where one bytes value costs least around it; theta may be a hundred, where a
(chunked) Array does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from common.errors import BadMetric, OversizedPayload, TruncatedPayload, WrongFormat
from common.models.heads import Head

__all__ = [
    "EVALUATE",
    "HEAD",
    "HELLO",
    "TRAIN",
    "Hello",
    "Update",
    "pack_classes",
    "pack_evaluation",
    "pack_global",
    "pack_hello",
    "pack_update",
    "unpack_classes",
    "unpack_evaluation",
    "unpack_global",
    "unpack_hello",
    "unpack_round",
    "unpack_subnetwork",
    "unpack_update",
]

HELLO, HEAD, TRAIN, EVALUATE = "query", "train.head", "train", "evaluate"

METRICS = ("examples", "loss", "accuracy", "seconds", "broken")
PERSONAL = ("personal", "tested")
"""Both or neither, beside `METRICS` in replies to ``train`` of runs with ``personal-test``."""
_LARGEST = 1e12
"""No metric is larger, so that no sum of them overflows."""
_DIGEST_BYTES = 8
_MOST_CLASSES, _LONGEST_NAME = 100_000, 1_000


@dataclass(frozen=True)
class Hello:
    """How a client introduces itself."""

    client: int
    backbone_digest: bytes
    masked_parameters: int
    holds: bytes | None = None
    """Digest of the theta of this run on its disk; under ``lotteryfl``, of its mask."""


@dataclass(frozen=True)
class Update:
    """One reply of one client, checked for form but not yet decoded. The payload of an evaluation is empty."""

    payload: bytes
    holds: bytes | None
    """Digest of the theta that the client has kept; under ``lotteryfl``, of its mask."""
    metrics: Mapping[str, float]
    """The keys of ``METRICS``: examples (at least 1, but 0 in an evaluation), loss, accuracy in [0, 1], seconds, broken
    (images that could not be read); all finite. Those of ``PERSONAL`` where the client has tested its own model:
    personal (accuracy, in [0, 1]), tested (images, at least 1).
    """
    head: bytes | None = None
    """The client's head, in rounds that train it."""

    @property
    def size(self) -> int:
        """Bytes of payload and head."""
        return len(self.payload) + len(self.head or b"")

    @property
    def examples(self) -> int:
        """Images trained on, or evaluated."""
        return int(self.metrics["examples"])


def pack_hello(hello: Hello) -> RecordDict:
    """A client's answer to a query."""
    record = ConfigRecord({"client": hello.client, "digest": hello.backbone_digest, "d": hello.masked_parameters})
    record.update(_holding(hello.holds))
    return RecordDict({"hello": record})


def unpack_hello(content: RecordDict) -> Hello:
    """Read a client's answer; raises WrongFormat."""
    record = content.get("hello")
    values = dict(record) if isinstance(record, ConfigRecord) else {}
    client, digest, d = values.get("client"), values.get("digest"), values.get("d")
    if type(client) is not int or type(digest) is not bytes or type(d) is not int:
        raise WrongFormat(f"an answer to the query with {sorted(values)} instead of client, digest, d")
    if not 0 <= client < 2**32 - 1 or len(digest) != _DIGEST_BYTES or not 0 <= d < 2**32:
        raise WrongFormat("an answer to the query with a client, digest or d out of range")
    return Hello(client, digest, d, _read_holding(values))


def _holding(holds: bytes | None) -> dict[str, bytes]:
    return {} if holds is None else {"holds": holds}


def _read_holding(values: Mapping[str, object]) -> bytes | None:
    holds = values.get("holds")
    if holds is not None and not (isinstance(holds, bytes) and len(holds) == _DIGEST_BYTES):
        raise WrongFormat("the digest of the theta held is not 8 bytes")
    return holds


def pack_classes(names: Sequence[str]) -> RecordDict:
    """The class list of the run, as part of a message; nothing for an empty one."""
    return RecordDict({"classes": ConfigRecord({"names": list(names)})} if names else {})


def unpack_classes(content: RecordDict) -> tuple[str, ...]:
    """Read what `pack_classes` wrote, ``()`` if the message has no class list; raises WrongFormat."""
    if "classes" not in content:
        return ()
    record = content["classes"]
    names = record.get("names") if isinstance(record, ConfigRecord) else None
    if (
        not isinstance(names, list)
        or not 0 < len(names) <= _MOST_CLASSES
        or not all(isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME for name in names)
        or len(set(names)) < len(names)
    ):
        raise WrongFormat("a class list that is not one of different, short names")
    return tuple(str(name) for name in names)


def pack_global(chain: bytes, head: Head | None, subnetwork: bytes | None = None) -> ArrayRecord:
    """The global model: theta in one of the forms of `common.downlink`, and for those who lack them the head and, under
    HideNseek, what pruning has left (`common.models.subnetwork`).
    """
    blobs = {"theta": chain} | ({"head": head.to_bytes()} if head is not None else {})
    blobs |= {} if subnetwork is None else {"subnetwork": subnetwork}
    return ArrayRecord({name: Array("uint8", (len(data),), "deltamask/bytes", data) for name, data in blobs.items()})


def unpack_global(arrays: ArrayRecord) -> tuple[bytes, bytes | None]:
    """Read what `pack_global` wrote: the chain of theta, and the head's bytes or None; raises WrongFormat."""
    if not {"theta"} <= set(arrays) <= {"theta", "head", "subnetwork"}:
        raise WrongFormat(f"a global model with {len(arrays)} arrays; expected theta, and at most head and subnetwork")
    return arrays["theta"].data, arrays["head"].data if "head" in arrays else None


def unpack_subnetwork(arrays: ArrayRecord) -> bytes | None:
    """What pruning has left, as bytes, if the message brings it."""
    return arrays["subnetwork"].data if "subnetwork" in arrays else None


def unpack_round(content: RecordDict) -> tuple[int, int]:
    """The round of a training message, and the client's slot in it."""
    order = content.config_records["round"]
    return int(order["round"]), int(order["slot"])  # type: ignore[arg-type]


def pack_update(
    payload: bytes, metrics: Mapping[str, float], holds: bytes | None = None, head: bytes | None = None
) -> RecordDict:
    """A client's reply to a training message."""
    update = ConfigRecord({"payload": payload, **_holding(holds), **({} if head is None else {"head": head})})
    return RecordDict({"update": update, "metrics": MetricRecord(dict(metrics))})


def unpack_update(content: RecordDict, max_bytes: int, with_head: bool = False, with_personal: bool = False) -> Update:
    """Check the form of a reply; what is in payload and head is checked later.

    Parameters
    ----------
    content
        The reply.
    max_bytes
        No payload is larger.
    with_head
        There must be a head; otherwise there must be none.
    with_personal
        The metrics of `PERSONAL` may be there; otherwise they must not.

    Raises
    ------
    WrongFormat
        If there are other records or keys than ours.
    TruncatedPayload, OversizedPayload
        If there is no payload or no head, or a payload of more than ``max_bytes``.
    BadMetric
        If a metric is missing, not a finite number, or out of range.
    """
    optional = PERSONAL if with_personal else ()
    record, values = _read_reply(content, {"payload", "holds", *(["head"] if with_head else [])}, optional)
    payload = record.get("payload")
    if not isinstance(payload, bytes) or not payload:
        raise TruncatedPayload("the reply carries no payload")
    if len(payload) > max_bytes:
        raise OversizedPayload(f"{len(payload)} bytes; at most {max_bytes} here")
    head = record.get("head")
    if with_head and not isinstance(head, bytes):
        raise TruncatedPayload("the reply carries no head")
    metrics = _read_metrics(values, least_examples=1)
    return Update(payload, _read_holding(record), metrics, head if isinstance(head, bytes) else None)


def pack_evaluation(metrics: Mapping[str, float], holds: bytes | None = None) -> RecordDict:
    """A client's reply to an evaluation message."""
    return RecordDict({"update": ConfigRecord({**_holding(holds)}), "metrics": MetricRecord(dict(metrics))})


def unpack_evaluation(content: RecordDict) -> Update:
    """Check the form of a reply that carries metrics only; raises WrongFormat or BadMetric."""
    record, values = _read_reply(content, {"holds"})
    return Update(b"", _read_holding(record), _read_metrics(values, least_examples=0))


def _read_reply(content: RecordDict, keys: set[str], optional: Sequence[str] = ()) -> tuple[ConfigRecord, MetricRecord]:
    record, metrics = content.get("update"), content.get("metrics")
    if (
        len(content) != 2
        or not isinstance(record, ConfigRecord)
        or not isinstance(metrics, MetricRecord)
        or not set(record) <= keys
        or len(metrics) > len(METRICS) + len(optional)
        or not set(metrics) <= {*METRICS, *optional}
    ):
        raise WrongFormat(f"a reply with records {sorted(content)}; expected update and metrics with their own keys")
    return record, metrics


def _read_metrics(metrics: MetricRecord, least_examples: int) -> dict[str, float]:
    values: dict[str, float] = {}
    for name in (*METRICS, *(PERSONAL if not metrics.keys().isdisjoint(PERSONAL) else ())):
        value = metrics.get(name)
        # Compared before anything is computed: a large integer has no float, and NaN compares with nothing.
        if not isinstance(value, (int, float)) or not -_LARGEST <= value <= _LARGEST:
            raise BadMetric(f"metric {name} = {value!r}; a finite number of at most {_LARGEST:g} is needed")
        values[name] = value
    low = {"examples": least_examples, "accuracy": 0, "seconds": 0, "broken": 0, "personal": 0, "tested": 1}
    shares = values["accuracy"], values.get("personal", 0)
    if any(value < low.get(name, value) for name, value in values.items()) or max(shares) > 1:
        raise BadMetric(f"a metric is out of range: {values}")
    return values
