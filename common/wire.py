"""The wire format's 34-byte header, in front of every uplink payload. docs/wire-format.md has the byte table and the
reasons.

Everything is little-endian. A payload is accepted only if every field matches what the receiver already knows; each
mismatch is an error of its own, raised before anything is allocated from numbers in the payload.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

from common.errors import (
    ChecksumMismatch,
    OversizedPayload,
    TruncatedPayload,
    WrongFormat,
    WrongModel,
    WrongRound,
    WrongSlot,
)
from common.gain import LARGEST_CODE, SMALLEST_CODE

__all__ = [
    "FIELDS",
    "HEADER_BYTES",
    "MASKS",
    "PLAIN",
    "VERSIONS",
    "Field",
    "Header",
    "max_payload_bytes",
    "pack_payload",
    "peek_codec",
    "read_header",
    "unpack_payload",
]

MAGIC = b"DM"
VERSIONS = (1, 2)
"""Those that this release reads. Version 2 differs in large filters."""
MASKS = 1
"""Method number of payloads that say which bits of a mask are 1: what codecs are for."""
PLAIN = 0
"""In the place of a codec's number: the body is plain numbers."""


class Field(NamedTuple):
    """One field of a header."""

    name: str
    code: str
    """Its type, as in `struct`."""
    rule: str
    """What a receiver demands of it, in Markdown: docs/wire-format.md shows it."""


FIELDS = (
    Field("magic", "2s", "MUST be `DM`: anything else is not ours"),
    Field("version", "B", "MUST be 1, or 2 for `fuse8`, `fuse16` and `fuse32`; see [Versions](#versions)"),
    Field("method", "B", "MUST be the number of the run's method, see [Methods](#methods)"),
    Field("codec", "B", "MUST be a number of the table below; clients of one run may use different codecs"),
    Field(
        "gain",
        "b",
        "a change counts 2^(gain / 8) times what the body says; MUST be -64 to 48, and 0 where masks are counted, or "
        "there is no codec",
    ),
    Field("round", "I", "MUST be this round: an old payload must not be counted again"),
    Field(
        "slot",
        "I",
        "MUST be the client's number in this round, which the server's message told it: the shared uniforms are keyed "
        "by it",
    ),
    Field("d", "I", "MUST be the model's number of masked weights"),
    Field("n", "I", "positions carried; MUST be at most d"),
    Field(
        "base digest",
        "8s",
        "MUST be the BLAKE2b-64 of the global model, of theta as little-endian uint16: a delta means nothing against "
        "another theta",
    ),
    Field("checksum", "I", "MUST be the CRC-32 of all other bytes: the header before it, and the body"),
)
"""The header, in order."""
_LAYOUT = struct.Struct("<" + "".join(field.code for field in FIELDS))
HEADER_BYTES = _LAYOUT.size


@dataclass(frozen=True)
class Header:
    """What a payload says about itself."""

    codec: int
    """Codec number, see ``common.codecs``."""
    round: int
    slot: int
    """The client's number in this round."""
    d: int
    """Masked weights of the model."""
    n: int
    """Positions the codec carries (the size of the selected delta), at most d."""
    base_digest: bytes
    """8 bytes that name the global model that the payload is against: of theta, or what the method has instead."""
    method: int = MASKS
    version: int = 1
    """Of the body; in what is expected of a payload, the newest that the codec reads."""
    gain: int = 0
    """Code of the gain (`common.gain`)."""


def max_payload_bytes(d: int) -> int:
    """Largest payload that any codec may produce for ``d`` masked weights: 4 KiB and 8 bytes a weight (a 32-bit filter
    of everything).
    """
    return 4096 + 8 * d


def pack_payload(header: Header, body: bytes) -> bytes:
    """Join header, checksum and body."""
    front = _LAYOUT.pack(
        MAGIC,
        header.version,
        header.method,
        header.codec,
        header.gain,
        header.round,
        header.slot,
        header.d,
        header.n,
        header.base_digest,
        0,
    )[:-4]
    return front + struct.pack("<I", zlib.crc32(body, zlib.crc32(front))) + body


def peek_codec(payload: bytes) -> int:
    """The codec number that a payload claims, before anything else is checked; raises TruncatedPayload, WrongFormat."""
    if len(payload) < HEADER_BYTES:
        raise TruncatedPayload(f"{len(payload)} bytes, but the header alone has {HEADER_BYTES}")
    if payload[:2] != MAGIC:
        raise WrongFormat(f"magic {payload[:2]!r}; expected {MAGIC!r}")
    return payload[4]


def read_header(payload: bytes) -> tuple[Header, bool]:
    """What a payload says about itself, and whether its checksum fits: nothing is compared with what a receiver knows.

    Raises
    ------
    TruncatedPayload, WrongFormat
        If there is no header of one of `VERSIONS`.
    """
    if len(payload) < HEADER_BYTES:
        raise TruncatedPayload(f"{len(payload)} bytes, but the header alone has {HEADER_BYTES}")
    magic, version, method, codec, gain, round_, slot, d, n, digest, checksum = _LAYOUT.unpack_from(payload)
    if magic != MAGIC or version not in VERSIONS:
        known = " or ".join(map(str, VERSIONS))
        raise WrongFormat(f"magic {magic!r}, version {version}; expected {MAGIC!r}, {known}")
    if not SMALLEST_CODE <= gain <= LARGEST_CODE:
        raise WrongFormat(f"a gain of 2^({gain} / 8)")
    view = memoryview(payload)
    intact = zlib.crc32(view[HEADER_BYTES:], zlib.crc32(view[: HEADER_BYTES - 4])) == checksum
    return Header(codec, round_, slot, d, n, digest, method, version, gain), intact


def unpack_payload(payload: bytes, expected: Header, any_gain: bool = False) -> tuple[Header, bytes]:
    """Check a payload against what the receiver knows.

    Parameters
    ----------
    payload
        The bytes received.
    expected
        Every field but ``n`` must be equal, except that the payload may have an older version.
    any_gain
        The gain need not be equal either.

    Returns
    -------
    header, body
        What the payload says, with n in 0..d, and the codec's bytes.

    Raises
    ------
    TruncatedPayload, OversizedPayload, WrongFormat, ChecksumMismatch, WrongRound, WrongSlot, WrongModel
        Each for what its name says.
    """
    limit = max_payload_bytes(expected.d)
    if len(payload) > limit:
        raise OversizedPayload(f"{len(payload)} bytes; at most {limit} for {expected.d} masked weights")
    found, intact = read_header(payload)
    if not intact:
        raise ChecksumMismatch("the checksum does not fit the bytes")
    if found.method != expected.method or found.codec != expected.codec:
        raise WrongFormat(f"method {found.method}, codec {found.codec}; expected {expected.method}, {expected.codec}")
    if found.version > expected.version:
        raise WrongFormat(f"version {found.version}; codec {found.codec} has none above {expected.version}")
    if found.gain != expected.gain and not any_gain:
        raise WrongFormat(f"changes that count 2^({found.gain} / 8) times, where they are not counted so")
    if found.round != expected.round:
        raise WrongRound(f"payload of round {found.round} in round {expected.round}")
    if found.slot != expected.slot:
        raise WrongSlot(f"payload of slot {found.slot} from slot {expected.slot}")
    if found.d != expected.d or found.n > found.d:
        raise WrongModel(f"{found.d} masked weights and {found.n} positions; this model has {expected.d}")
    if found.base_digest != expected.base_digest:
        raise WrongModel(
            f"delta against the model {found.base_digest.hex()}, but the round's is {expected.base_digest.hex()}"
        )
    return found, payload[HEADER_BYTES:]
