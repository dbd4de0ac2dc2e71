"""The attacker cuts a payload, or lengthens it, hoping that a reader runs past the end or waits for more.

Every codec knows from the header, and from the first bytes of its body, how long it must be; the checksum is repaired
here, since an attacker can.
"""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import ChecksumMismatch, OversizedPayload, PayloadError, TruncatedPayload
from common.wire import HEADER_BYTES, max_payload_bytes
from tests.attacks.targets import every_codec, refused, target


@every_codec
def test_cut_at_every_length(name: str) -> None:
    attack = target(name, d=400)
    for length in range(len(attack.payload)):
        expected = TruncatedPayload if length < HEADER_BYTES else ChecksumMismatch
        with pytest.raises(expected):
            attack.codec.decode(attack.payload[:length], attack.shared)


@every_codec
def test_a_body_cut_at_every_length_under_a_checksum_that_fits(name: str) -> None:
    small, large = target(name, d=400), target(name)
    for length in range(len(small.body)):
        assert refused(small, small.repack(small.body[:length])), f"{length} of {len(small.body)} bytes are enough"
    for length in np.linspace(0, len(large.body) - 1, num=100).astype(int).tolist():
        assert refused(large, large.repack(large.body[:length])), f"{length} of {len(large.body)} bytes are enough"


@every_codec
@pytest.mark.parametrize("tail", [b"\0", b"\1\0\0\0", bytes(4), b"\xff" * 64, bytes(100_000)])
def test_a_lengthened_body(name: str, tail: bytes) -> None:
    attack = target(name)
    assert refused(attack, attack.repack(attack.body + tail))


@every_codec
def test_a_body_where_nothing_was_to_follow(name: str) -> None:
    """An empty delta, and one of as many positions as there are, each with the body of another."""
    attack = target(name)
    for n in (0, attack.shared.d):
        assert refused(attack, attack.repack(attack.body, n))
    if name != "bitmap":  # its n are the ones: without any, shares and words stay
        assert refused(attack, attack.repack(b"\0", 0))


@every_codec
def test_more_than_the_largest_payload_is_not_even_summed(name: str) -> None:
    attack = target(name, d=400)
    with pytest.raises(OversizedPayload):
        attack.codec.decode(attack.payload[:30] + bytes(max_payload_bytes(400)), attack.shared)


def test_no_payload_at_all() -> None:
    for data in (b"", b"D", b"DM", bytes(HEADER_BYTES), bytes(HEADER_BYTES - 1), b"DM\1\1\1" + bytes(29)):
        attack = target("exact", d=400)
        with pytest.raises(PayloadError):
            attack.codec.decode(data, attack.shared)
        assert refused(attack, data)
