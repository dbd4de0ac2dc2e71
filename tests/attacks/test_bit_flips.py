"""The attacker (or a bad cable) changes bits, and may repair the checksum so that the codec itself reads them.

Without the repair, no changed payload is read. With it, the header still names what the receiver knows, and a body is
refused or gives a mask that flips no more positions than the header says.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from common.errors import PayloadError
from common.wire import HEADER_BYTES
from tests.attacks.targets import Target, every_codec, refused, target
from tests.codecs.cases import sent


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def repaired(payload: bytes) -> bytes:
    """The same payload with the checksum that fits it."""
    checksum = zlib.crc32(payload[HEADER_BYTES:], zlib.crc32(payload[: HEADER_BYTES - 4]))
    return payload[: HEADER_BYTES - 4] + struct.pack("<I", checksum) + payload[HEADER_BYTES:]


@every_codec
def test_each_bit_of_a_payload_is_guarded(name: str) -> None:
    attack = target(name, d=400)
    for bit in range(8 * len(attack.payload)):
        with pytest.raises(PayloadError):
            attack.codec.decode(flipped(attack.payload, bit), attack.shared)


@every_codec
def test_each_bit_of_the_header_with_its_checksum_repaired(name: str) -> None:
    attack = target(name)
    for bit in range(8 * (HEADER_BYTES - 4)):
        payload = repaired(flipped(attack.payload, bit))
        # n alone is not known beforehand: a filter may still fit one or two keys more or less.
        assert refused(attack, payload) or abs(sent(payload) - attack.n) < 16


@every_codec
def test_bits_of_the_body_with_the_checksum_repaired(name: str) -> None:
    attack = target(name, d=400)
    for bit in range(8 * len(attack.body)):
        refused(attack, attack.repack(flipped(attack.body, bit)))
    large = target(name)
    for bit in np.linspace(0, 8 * len(large.body) - 1, num=400).astype(int).tolist():
        refused(large, large.repack(flipped(large.body, bit)))


def mutations(attack: Target, count: int) -> Iterator[bytes]:
    """Bodies cut, changed in front or anywhere, with another n, or extended; their checksums fit."""
    rng = np.random.default_rng(0)
    for trial in range(count):
        body, n = bytearray(attack.body), attack.n
        match trial % 5:
            case 0:
                body = body[: rng.integers(len(body))]
            case 1:  # the front, where sizes are
                body[rng.integers(min(len(body), 90))] ^= 1 << rng.integers(8)
            case 2:
                for _ in range(rng.integers(1, 8)):
                    body[rng.integers(len(body))] = rng.integers(256)
            case 3:
                n = int(rng.integers(0, attack.shared.d + 1))
            case _:
                body += rng.bytes(rng.integers(1, 12))
        yield attack.repack(bytes(body), n)


@every_codec
def test_many_changes_at_once(name: str) -> None:
    attack = target(name)
    number = sum(refused(attack, payload) for payload in mutations(attack, 300))
    # A bit more or less in an index, or in a Bloom filter, is another delta, not a wrong payload.
    assert number > {"relative": 180, "bloom": 170}.get(name, 270), f"only {number} of 300 were refused"


@every_codec
def test_noise_for_a_body(name: str) -> None:
    attack = target(name)
    rng = np.random.default_rng(3)
    for trial in range(100):
        size = int(rng.integers(0, 300)) if trial % 2 else len(attack.body)
        assert refused(attack, attack.repack(rng.bytes(size))) or name == "relative"
