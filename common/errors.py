"""Every error that this project raises on purpose.

DeltaMaskError
├── ConfigError            the run config or node config is wrong: names key, value and allowed range
├── DataError              a dataset is missing or not in the expected form
├── ModelError             a backbone or its weights are missing, or differ between the two sides
├── RoundError             the run cannot go on: too few nodes, too few usable replies
├── CheckpointError        a run cannot be resumed: no checkpoint, a damaged one, or another config
├── PrivacyError           a client would have to show more of its images than it may
├── EncodeError            a client cannot encode what it learnt (a bug or impossible input, never the network)
└── PayloadError           whatever is wrong with bytes or metrics that came from the other side; ``reason`` is the name
it is counted by
    ├── TruncatedPayload   "truncated"
    ├── OversizedPayload   "oversized"
    ├── WrongFormat        "wrong-format"      not our magic bytes, version, method, codec, or a reserved bit is set
    ├── ChecksumMismatch   "checksum"
    ├── WrongRound         "wrong-round"
    ├── WrongSlot          "wrong-slot"
    ├── WrongModel         "wrong-model"       other number of masked weights, other theta, other frozen weights
    ├── BadGeometry        "bad-geometry"      a filter whose sizes contradict each other
    ├── BadCode            "bad-code"          entropy-coded data that do not hold exactly what the header says
    ├── BadImage           "bad-image"         not the one PNG that the geometry allows
    ├── ImplausibleDelta   "implausible-delta" a filter that matches far more or fewer positions than it says
    ├── BadMetric          "bad-metric"        a metric is missing, NaN, infinite or out of range
    └── DuplicateReply     "duplicate"
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BadCode",
    "BadGeometry",
    "BadImage",
    "BadMetric",
    "CheckpointError",
    "ChecksumMismatch",
    "ConfigError",
    "DataError",
    "DeltaMaskError",
    "DuplicateReply",
    "EncodeError",
    "ImplausibleDelta",
    "ModelError",
    "OversizedPayload",
    "PayloadError",
    "PrivacyError",
    "RoundError",
    "TruncatedPayload",
    "WrongFormat",
    "WrongModel",
    "WrongRound",
    "WrongSlot",
    "brief",
    "reason_of",
]

_SHOWN = 300
_HEAD = 80  # of a long reason; the rest of what is shown is its end


def brief(text: object) -> str:
    """What the other side wrote, fit for a log: one line of at most 300 characters, none of which steers a terminal."""
    line = str(text)
    end = "" if len(line) <= _SHOWN else f" ... ({len(line):,} characters)"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line[:_SHOWN]) + end


def reason_of(error: BaseException) -> str:
    """Why a library failed, fit for a message of ours: one line, and of a long text its beginning and its end, since
    many say at the end what is wrong. An error without a text, or with a key alone, is told with its type.
    """
    line = " ".join(str(error).split())
    if not line or isinstance(error, LookupError):
        line = f"{type(error).__name__}: {line}".rstrip(": ")
    return brief(line if len(line) <= _SHOWN else f"{line[:_HEAD]} ... {line[_HEAD + 5 - _SHOWN :]}")


class DeltaMaskError(Exception):
    """Base of every error raised on purpose by this project."""


class ConfigError(DeltaMaskError, ValueError):
    """A config value is missing, unknown or out of range."""


class DataError(DeltaMaskError):
    """A dataset cannot be used."""


class ModelError(DeltaMaskError):
    """A backbone or its weights cannot be used."""


class RoundError(DeltaMaskError):
    """The run cannot go on."""


class CheckpointError(DeltaMaskError):
    """A run cannot be resumed."""


class PrivacyError(DeltaMaskError):
    """A client would have to show more of its images than it may."""


class EncodeError(DeltaMaskError):
    """A client cannot encode its update."""


class PayloadError(DeltaMaskError):
    """Bytes or metrics from the other side are unusable; the reply is dropped and counted by ``reason``."""

    reason: ClassVar[str] = "bad-payload"


class TruncatedPayload(PayloadError):
    """Fewer bytes than the header promises."""

    reason = "truncated"


class OversizedPayload(PayloadError):
    """More bytes than the largest valid payload for this model."""

    reason = "oversized"


class WrongFormat(PayloadError):
    """Not a payload of this protocol version, method or codec."""

    reason = "wrong-format"


class ChecksumMismatch(PayloadError):
    """The bytes changed on their way."""

    reason = "checksum"


class WrongRound(PayloadError):
    """A payload of another round."""

    reason = "wrong-round"


class WrongSlot(PayloadError):
    """A payload that names another slot of the round than its sender has."""

    reason = "wrong-slot"


class WrongModel(PayloadError):
    """A payload for another theta or another set of masked weights."""

    reason = "wrong-model"


class BadGeometry(PayloadError):
    """Filter sizes that contradict each other."""

    reason = "bad-geometry"


class BadCode(PayloadError):
    """Entropy-coded data that do not hold exactly what the header says."""

    reason = "bad-code"


class BadImage(PayloadError):
    """Not the one PNG that the filter geometry allows."""

    reason = "bad-image"


class ImplausibleDelta(PayloadError):
    """A filter that matches far more or fewer positions than its header says."""

    reason = "implausible-delta"


class BadMetric(PayloadError):
    """A metric that is missing, not finite or out of range."""

    reason = "bad-metric"


class DuplicateReply(PayloadError):
    """A second reply of one client in one round."""

    reason = "duplicate"
