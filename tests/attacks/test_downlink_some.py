"""What a private round has added to theta, honest and not."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from common.aggregation.base import Change
from common.aggregation.flips import moved
from common.downlink import apply_chain, join_chain, pack_some
from common.downlink.some import unpack_some
from common.downlink.version import SOME
from common.errors import BadGeometry, PayloadError, TruncatedPayload
from common.subset import subset
from common.theta import Version

D, SEED, ROUND, CODE, CLIP = 3_000, 4, 2, 6_000, 655
OLD = np.random.default_rng(0).integers(50_000, 64_000, D).astype(np.uint16)
HEADER = 24


def step(values: int) -> tuple[bytes, np.ndarray]:
    """A version that moves by so many different values, and the theta that it gives."""
    at = subset(D, CODE, SEED, ROUND)
    change = np.zeros(D, np.int32)
    change[at] = 100 * np.random.default_rng(1).integers(1, values + 1, len(at)) - 150
    after = moved(OLD, change, CLIP)
    data = pack_some(Version(after), Version(OLD), Change(change, CLIP), CODE, SEED, ROUND)
    assert data is not None
    return data, after


def sealed(body: bytes) -> bytes:
    data = STEP[:HEADER] + body
    return data + zlib.crc32(data).to_bytes(4, "little")


def receive(data: bytes) -> np.ndarray:
    return apply_chain(join_chain([data]), Version(OLD), D, SEED, (D,)).theta


STEP, AFTER = step(7)
BODY = STEP[HEADER:-4]


@pytest.mark.parametrize("values", [1, 2, 11])
def test_it_gives_the_theta_after_the_round(values: int) -> None:
    data, after = step(values)
    assert data[3] == SOME
    assert np.array_equal(receive(data), after)
    assert not np.array_equal(after, OLD)


def test_it_is_as_long_as_what_is_not_known() -> None:
    asked = len(subset(D, CODE, SEED, ROUND))
    assert 8 * len(STEP) <= asked * np.log2(7) + 8 * 100  # seven values, and front, table and checksum


def test_where_too_many_values_occur_there_is_no_code() -> None:
    many = np.arange(65_536, dtype=np.uint16).clip(1)
    wide = Change(np.arange(len(many), dtype=np.int32), CLIP)
    assert pack_some(Version(many), Version(many), wide, 65_536, SEED, ROUND) is None


def test_damage_under_a_checksum_that_fits() -> None:
    rng = np.random.default_rng(1)
    for trial in range(300):
        body = bytearray(BODY)
        if trial % 3 == 0:
            body = body[: rng.integers(len(body))]
        else:
            for _ in range(trial % 5 + 1):
                body[rng.integers(min(len(body), 60) if trial % 2 else len(body))] ^= 1 << rng.integers(8)
        try:
            theta = receive(sealed(bytes(body)))
        except PayloadError:
            continue
        assert np.array_equal(theta, AFTER), "another theta was accepted"


def listed(*values: int) -> bytes:
    packed = zlib.compress(np.diff(values, prepend=0).astype("<i4").tobytes())
    return struct.pack("<IHHI", ROUND, CODE - 1, CLIP, len(packed)) + packed


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", TruncatedPayload),
        (BODY[:11], TruncatedPayload),
        (BODY[:8] + struct.pack("<I", 2**32 - 1) + BODY[12:], TruncatedPayload),
        (BODY[:6] + struct.pack("<H", 0) + BODY[8:], BadGeometry),
        (BODY[:6] + struct.pack("<H", 40_000) + BODY[8:], BadGeometry),
        (listed(), BadGeometry),
        (listed(5, 5), BadGeometry),
        (listed(9, 5), BadGeometry),
        (listed(5, 70_000), BadGeometry),
        (listed(5) + b"more", BadGeometry),
        (listed(5, 6), TruncatedPayload),
        (struct.pack("<IHHI", ROUND, CODE - 1, CLIP, 4) + b"none", BadGeometry),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else f"{len(value)} bytes",
)
def test_a_body_that_lies(body: bytes, error: type[PayloadError]) -> None:
    with pytest.raises(error):
        receive(sealed(body))


def test_values_are_inflated_to_what_can_be_and_no_further() -> None:
    bomb = zlib.compress(bytes(10**8), 9)
    body = struct.pack("<IHHI", ROUND, CODE - 1, CLIP, len(bomb)) + bomb
    tracemalloc.start()
    try:
        with pytest.raises(BadGeometry):
            unpack_some(body, OLD, SEED)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
