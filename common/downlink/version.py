"""One version of theta as bytes: a header that names it and the version it needs, a body by form, a checksum."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from common.errors import ChecksumMismatch, TruncatedPayload, WrongFormat, WrongModel
from common.theta import Version
from common.wire import Field

__all__ = [
    "CHANGE",
    "EXACT",
    "FIELDS",
    "FLOAT32",
    "QUANTISED",
    "RELAY",
    "SOME",
    "Step",
    "pack_same",
    "pack_step",
    "read_step",
]

FLOAT32, QUANTISED, EXACT, RELAY, CHANGE, SOME = 1, 2, 3, 5, 6, 7
"""Numbers of the forms; never reused. 4 was a relay that knew the Beta posterior only."""

_MAGIC, _VERSION = b"DT", 1
FIELDS = (
    Field("magic", "2s", "MUST be `DT`"),
    Field("version", "B", "MUST be 1"),
    Field("form", "B", "MUST be 1 `float32`, 2 `quantised`, 3 `exact`, 5 `relay`, 6 `change` or 7 `some`"),
    Field("d", "I", "MUST be the model's number of masked weights"),
    Field("digest", "8s", "of this theta; MUST be what decoding gives"),
    Field("base", "8s", "digest of the theta it needs; zeros if none"),
)
"""The header of a version, in order."""
_HEADER = struct.Struct("<" + "".join(field.code for field in FIELDS))
_NO_BASE = bytes(8)


@dataclass(frozen=True)
class Step:
    """One version, its header read: which theta it gives, and which it needs."""

    form: int
    digest: bytes
    base: bytes | None
    body: bytes


def pack_step(form: int, version: Version, base: Version | None, body: bytes) -> bytes:
    """Put header and checksum around a body."""
    before = _NO_BASE if base is None else base.digest
    data = _HEADER.pack(_MAGIC, _VERSION, form, len(version.theta), version.digest, before) + body
    return data + zlib.crc32(data).to_bytes(4, "little")


def pack_same(version: Version) -> bytes:
    """For a client that holds this very version: a step without a body, of which only the digest is looked at."""
    return pack_step(EXACT, version, version, b"")


def read_step(data: bytes, d: int) -> Step:
    """Check the header and checksum of one version; raises PayloadError."""
    if len(data) < _HEADER.size + 4:
        raise TruncatedPayload(f"{len(data)} bytes of theta; header and checksum alone have {_HEADER.size + 4}")
    magic, version, form, size, digest, base = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != _VERSION or form not in (FLOAT32, QUANTISED, EXACT, RELAY, CHANGE, SOME):
        raise WrongFormat(f"magic {magic!r}, version {version}, form {form}")
    if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise ChecksumMismatch("the checksum of theta does not fit its bytes")
    if size != d:
        raise WrongModel(f"theta has {size} entries; this model has {d} masked weights")
    return Step(form, digest, None if base == _NO_BASE else base, data[_HEADER.size : -4])
