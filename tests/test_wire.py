from __future__ import annotations

from dataclasses import replace

import pytest

from common.errors import (
    ChecksumMismatch,
    OversizedPayload,
    PayloadError,
    TruncatedPayload,
    WrongFormat,
    WrongModel,
    WrongRound,
    WrongSlot,
)
from common.wire import HEADER_BYTES, Header, max_payload_bytes, pack_payload, unpack_payload

HEADER = Header(codec=1, round=7, slot=3, d=1000, n=12, base_digest=bytes(range(8)))


def test_layout_is_the_documented_one() -> None:
    payload = pack_payload(HEADER, b"body")
    assert HEADER_BYTES == 34
    assert payload[:30].hex() == "444d010101000700000003000000e80300000c0000000001020304050607"
    assert payload[30:34].hex() == "fe80b2e3"
    assert payload[34:] == b"body"
    assert unpack_payload(payload, HEADER) == (HEADER, b"body")


def test_each_mismatch_is_an_error_of_its_own() -> None:
    payload = pack_payload(HEADER, b"body")
    cases = {
        TruncatedPayload: (payload[:33], HEADER),
        OversizedPayload: (bytes(max_payload_bytes(1000) + 1), HEADER),
        ChecksumMismatch: (payload[:-1] + b"z", HEADER),
        WrongRound: (payload, replace(HEADER, round=8)),
        WrongSlot: (payload, replace(HEADER, slot=4)),
    }
    for error, (data, expected) in cases.items():
        with pytest.raises(error):
            unpack_payload(data, expected)
    for wrong in (replace(HEADER, d=1001), replace(HEADER, base_digest=bytes(8))):
        with pytest.raises(WrongModel):
            unpack_payload(payload, wrong)
    for wrong in (replace(HEADER, codec=2), replace(HEADER, method=2)):
        with pytest.raises(WrongFormat):
            unpack_payload(payload, wrong)
    with pytest.raises(WrongModel):
        unpack_payload(pack_payload(replace(HEADER, n=1001), b""), HEADER)


@pytest.mark.parametrize("position", range(HEADER_BYTES))
def test_every_bit_of_the_header_is_guarded(position: int) -> None:
    payload = bytearray(pack_payload(HEADER, b"body"))
    payload[position] ^= 0x10
    with pytest.raises(PayloadError):
        unpack_payload(bytes(payload), HEADER)


def test_reasons_are_distinct() -> None:
    def leaves(error: type[PayloadError]) -> list[type[PayloadError]]:
        return [error, *(leaf for sub in error.__subclasses__() for leaf in leaves(sub))]

    reasons = [error.reason for error in leaves(PayloadError)]
    assert len(set(reasons)) == len(reasons) >= 13
