"""What travels in a Flower message, and under which names; the only place where record keys are spelt.

    server -> client   query          "classes": ConfigRecord {names}     who are you, and is your frozen model mine?
    client -> server                  "hello":   ConfigRecord             client, digest of frozen weights, d, holds,
                                                                          partitions
                                      "files":   ConfigRecord             how many of its own files are used, or not
    server -> client   train.head     "classes"                           measure what the head is made of
    client -> server                  "parts":   ConfigRecord             {statistics}, of `common.models.heads`
                                      "metrics": MetricRecord             every reply but the first carries it
    server -> client   train          "parts":   ArrayRecord              what the client lacks of the global model
                                      "classes"                           for those who hold nothing
                                      "round":   ConfigRecord {round, slot}; gain, where the method has one; check,
                                                                          where it is asked how good that model is
    client -> server                  "parts":   ConfigRecord             {payload}, and what else its method sends
                                      "metrics"                           with {personal, tested} where the run asks,
                                                                          with {held_out_...} where `check` asks
    server -> client   evaluate       "parts", "classes", "round"         as above: how good is it on your images?
    client -> server                  "parts"                             none
                                      "metrics"

In a run that was resumed each message to a client also has "run": ConfigRecord {first}, Flower's number of the run as
it was first started: what a client has kept on its disk, it has kept by that.

Parts are named bytes: a method says which there are in each direction, and the largest size of each (`Part`). Beside
them a client may say which version of the global model it holds.

Uplink parts are below a megabyte, where one bytes value costs least around it; those of the downlink may be a hundred,
where a (chunked) Array does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from common.data.inventory import COUNTED
from common.data.names import LONGEST_NAME, MOST_CLASSES
from common.digest import DIGEST_BYTES
from common.errors import BadMetric, OversizedPayload, TruncatedPayload, WrongFormat

__all__ = [
    "BALANCED",
    "EVALUATE",
    "FIT",
    "HEAD",
    "HELD_OUT",
    "HELLO",
    "METRICS",
    "PERSONAL",
    "TRAIN",
    "Hello",
    "Part",
    "Parts",
    "Update",
    "model_bytes",
    "name_run",
    "pack_classes",
    "pack_hello",
    "pack_model",
    "pack_update",
    "unpack_check",
    "unpack_classes",
    "unpack_gain",
    "unpack_hello",
    "unpack_model",
    "unpack_round",
    "unpack_run",
    "unpack_update",
]

HELLO, HEAD, TRAIN, EVALUATE = "query", "train.head", "train", "evaluate"

METRICS = ("examples", "loss", "accuracy", "seconds", "broken")
FIT = ("loss", "accuracy")
"""Those of `METRICS` that private methods leave out: they depend on the images."""
PERSONAL = ("personal", "tested")
"""Both or neither, beside `METRICS` in replies to ``train`` of runs with ``personal-test``."""
BALANCED = ("balanced", "macro_f1")
"""Both, beside `METRICS`, in replies to ``evaluate``."""
HELD_OUT = tuple(f"held_out_{name}" for name in ("examples", "loss", "accuracy", *BALANCED))
"""All or none, beside `METRICS` in replies to ``train``: what a reply to ``evaluate`` would have said of the model that
came with the message. It travels with training where it can, which saves a message each way, and on a device a process.
"""
_SHARES = ("accuracy", "personal", *BALANCED, *HELD_OUT[2:])
_LARGEST = 1e12
"""No metric is larger, so that no sum of them overflows."""
_MOST_FILES = 2**40
_MOST_DIGITS = 20
"""Of Flower's numbers, which have 64 bits; Python refuses to read thousands of digits, by an error of its own."""
_HOLDS = "holds"


@dataclass(frozen=True)
class Part:
    """What may travel under a name."""

    limit: int
    """No honest sender's bytes are more."""
    required: bool = True
    """Whether a message without it is refused."""


Parts = Mapping[str, Part]
"""The parts that a message may have, by name."""


@dataclass(frozen=True)
class Hello:
    """How a client introduces itself."""

    client: int
    backbone_digest: bytes
    masked_parameters: int
    holds: bytes | None = None
    """8 bytes that name what the client has kept of this run: a version of the global model, or what its method keeps
    instead.
    """
    partitions: int | None = None
    """Into how many parts it divides the run's training images, above its client id; None of one with images of its
    own.
    """
    files: Mapping[str, int] = field(default_factory=dict)
    """Of a folder of its own: how many of its files became what (`common.data.inventory.COUNTED`). No name leaves the
    client.
    """


@dataclass(frozen=True)
class Update:
    """One reply of one client, checked for form but not yet decoded. A reply to an evaluation has no parts."""

    parts: Mapping[str, bytes] = field(default_factory=dict)
    holds: bytes | None = None
    """As in `Hello`."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The keys of ``METRICS``: examples (at least 1, but 0 in an evaluation), loss, accuracy in [0, 1], seconds, broken
    (images that could not be read); all finite. Those of ``PERSONAL`` where the client has tested its own model:
    personal (accuracy, in [0, 1]), tested (images, at least 1). Those of ``BALANCED`` after an evaluation: balanced
    accuracy and macro F1, in [0, 1]. Those of ``HELD_OUT`` where training began with one.
    """

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(map(len, self.parts.values()))

    @property
    def examples(self) -> int:
        """Images trained on, or evaluated."""
        return int(self.metrics["examples"])


def pack_hello(hello: Hello) -> RecordDict:
    """A client's answer to a query."""
    record = ConfigRecord({"client": hello.client, "digest": hello.backbone_digest, "d": hello.masked_parameters})
    record.update(_holding(hello.holds))
    if hello.partitions is not None:
        record["partitions"] = hello.partitions
    files = {"files": ConfigRecord(dict(hello.files))} if hello.files else {}
    return RecordDict({"hello": record, **files})


def unpack_hello(content: RecordDict) -> Hello:
    """Read a client's answer; raises WrongFormat."""
    record = content.get("hello")
    values = dict(record) if isinstance(record, ConfigRecord) else {}
    client, digest, d = values.get("client"), values.get("digest"), values.get("d")
    if type(client) is not int or type(digest) is not bytes or type(d) is not int:
        raise WrongFormat(f"an answer to the query with {sorted(values)} instead of client, digest, d")
    if not 0 <= client < 2**32 - 1 or len(digest) != DIGEST_BYTES or not 0 <= d < 2**32:
        raise WrongFormat("an answer to the query with a client, digest or d out of range")
    partitions = values.get("partitions")
    if partitions is not None and (type(partitions) is not int or not client < partitions < 2**32):
        raise WrongFormat("an answer to the query with partitions that are no number above the client's")
    return Hello(client, digest, d, _read_holding(values), partitions, _read_files(content))


def _read_files(content: RecordDict) -> dict[str, int]:
    if "files" not in content:
        return {}
    record = content["files"]
    if not isinstance(record, ConfigRecord) or len(record) > len(COUNTED) or not set(record) <= set(COUNTED):
        raise WrongFormat("an answer to the query with counts of files that are not ours")
    found: dict[str, int] = {}
    for name, count in record.items():
        if type(count) is not int or not 0 <= count < _MOST_FILES:
            raise WrongFormat("an answer to the query with counts of files that are no numbers of files")
        found[name] = count
    return found


def _holding(holds: bytes | None) -> dict[str, bytes]:
    return {} if holds is None else {_HOLDS: holds}


def _read_holding(values: Mapping[str, object]) -> bytes | None:
    holds = values.get(_HOLDS)
    if holds is not None and not (isinstance(holds, bytes) and len(holds) == DIGEST_BYTES):
        raise WrongFormat("the digest of the model held is not 8 bytes")
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
        or not 0 < len(names) <= MOST_CLASSES
        or not all(isinstance(name, str) and 0 < len(name) <= LONGEST_NAME for name in names)
        or len(set(names)) < len(names)
    ):
        raise WrongFormat("a class list that is not one of different, short names")
    return tuple(str(name) for name in names)


def pack_model(parts: Mapping[str, bytes]) -> ArrayRecord:
    """What a client lacks of the global model, a blob for each part."""
    return ArrayRecord({name: Array("uint8", (len(data),), "deltamask/bytes", data) for name, data in parts.items()})


def unpack_model(content: RecordDict, parts: Parts) -> dict[str, bytes]:
    """Read what `pack_model` wrote out of a message; errors as `unpack_update`."""
    record = content.get("parts")
    if not isinstance(record, ArrayRecord):
        raise WrongFormat(f"a message with records {sorted(content)}; expected parts of the global model")
    return _check({name: array.data for name, array in record.items()}, parts)


def model_bytes(content: RecordDict) -> int:
    """Bytes of a message to a client: the parts of the global model, and the class list."""
    names = sum(len(name.encode()) for name in unpack_classes(content))
    return names + sum(len(array.data) for array in content.array_records["parts"].values())


def unpack_round(content: RecordDict) -> tuple[int, int]:
    """The round of a training message, and the client's slot in it; raises WrongFormat."""
    order = _order(content)
    server_round, slot = order.get("round"), order.get("slot")
    if type(server_round) is not int or type(slot) is not int:
        raise WrongFormat(f"a training message with {sorted(order)} instead of round, slot")
    if not 0 <= server_round < 2**32 or not 0 <= slot < 2**32:
        raise WrongFormat("a training message with a round or slot out of range")
    return server_round, slot


def unpack_check(content: RecordDict) -> int | None:
    """The round whose model a training message brings, if it asks how good that one is on images held out; 0: the head
    alone. Raises WrongFormat.
    """
    check = _order(content).get("check")
    if check is not None and (type(check) is not int or check < 0):
        raise WrongFormat(f"a training message with check = {check!r}")
    return check


def unpack_gain(content: RecordDict) -> float:
    """How much a change is to count, by a training message; raises WrongFormat."""
    gain = _order(content).get("gain")
    if not isinstance(gain, float) or not 2**-8 <= gain <= 2**6:
        raise WrongFormat(f"a training message with gain = {gain!r}")
    return gain


def _order(content: RecordDict) -> ConfigRecord:
    order = content.get("round")
    if not isinstance(order, ConfigRecord):
        raise WrongFormat(f"a training message with records {sorted(content)}; expected round")
    return order


def name_run(content: RecordDict, first: int | None) -> None:
    """Add Flower's number of a resumed run as it was first started; None: it is the run's own."""
    if first is not None:
        content["run"] = ConfigRecord({"first": str(first)})  # a record's integers have 63 bits, Flower's numbers 64


def unpack_run(content: RecordDict) -> int | None:
    """Read what `name_run` added, None if it has not; raises WrongFormat."""
    if "run" not in content:
        return None
    record = content["run"]
    first = record.get("first") if isinstance(record, ConfigRecord) else None
    is_number = isinstance(first, str) and first.isascii() and first.isdigit() and len(first) <= _MOST_DIGITS
    if not isinstance(first, str) or not is_number or int(first) >= 2**64:
        raise WrongFormat("a message that names a run by something other than a number")
    return int(first)


def pack_update(parts: Mapping[str, bytes], metrics: Mapping[str, float], holds: bytes | None = None) -> RecordDict:
    """A client's reply to a training or evaluation message."""
    record = ConfigRecord({**parts, **_holding(holds)})
    return RecordDict({"parts": record, "metrics": MetricRecord(dict(metrics))})


def unpack_update(
    content: RecordDict,
    parts: Parts,
    *,
    optional: Sequence[Sequence[str]] = (),
    least_examples: int = 1,
    fit: bool = True,
) -> Update:
    """Check the form of a reply; what is in its parts is checked later.

    Parameters
    ----------
    content
        The reply.
    parts
        What it may and must bring.
    optional
        Of `PERSONAL`, `BALANCED` and `HELD_OUT`: metrics that may be there, of each all or none.
    least_examples
        0 in an evaluation, which a client without images held out can answer too.
    fit
        Whether it says how well it went (`FIT`); private methods do not.

    Raises
    ------
    WrongFormat
        If there are other records, parts or keys than ours.
    TruncatedPayload, OversizedPayload
        If a part is missing or empty, or has more bytes than its limit.
    BadMetric
        If a metric is missing, not a finite number, or out of range.
    """
    record, metrics = content.get("parts"), content.get("metrics")
    required = METRICS if fit else tuple(name for name in METRICS if name not in FIT)
    if (
        len(content) != 2
        or not isinstance(record, ConfigRecord)
        or not isinstance(metrics, MetricRecord)
        or len(metrics) > len(required) + sum(map(len, optional))
        or not set(metrics) <= {*required, *chain.from_iterable(optional)}
    ):
        raise WrongFormat(f"a reply with records {sorted(content)}; expected parts and metrics with their own keys")
    found = _check({name: value for name, value in record.items() if name != _HOLDS}, parts)
    return Update(found, _read_holding(record), _read_metrics(metrics, required, optional, least_examples))


def _check(found: Mapping[str, object], parts: Parts) -> dict[str, bytes]:
    if len(found) > len(parts) or not set(found) <= set(parts):
        raise WrongFormat(f"{len(found)} parts that are not all among {', '.join(parts) or 'none'}")
    checked: dict[str, bytes] = {}
    for name, part in parts.items():
        data = found.get(name)
        if data is None and not part.required:
            continue
        if not isinstance(data, bytes) or not data:
            raise TruncatedPayload(f"the message carries no {name}")
        if len(data) > part.limit:
            raise OversizedPayload(f"{len(data)} bytes of {name}; at most {part.limit} here")
        checked[name] = data
    return checked


def _read_metrics(
    metrics: MetricRecord, required: Sequence[str], optional: Sequence[Sequence[str]], least_examples: int
) -> dict[str, float]:
    values: dict[str, float] = {}
    given = [names for names in optional if not metrics.keys().isdisjoint(names)]
    for name in chain(required, *given):
        value = metrics.get(name)
        # Compared before anything is computed: a large integer has no float, and NaN compares with nothing.
        if not isinstance(value, (int, float)) or not -_LARGEST <= value <= _LARGEST:
            raise BadMetric(f"metric {name} = {value!r}; a finite number of at most {_LARGEST:g} is needed")
        values[name] = value
    shares = [values[name] for name in _SHARES if name in values]
    low = {"examples": least_examples, "seconds": 0, "broken": 0, "tested": 1, "held_out_examples": 0}
    if any(value < low.get(name, value) for name, value in values.items()) or any(
        not 0 <= share <= 1 for share in shares
    ):
        raise BadMetric(f"a metric is out of range: {values}")
    return values
