"""The attacker picks scales that cut the positions into a block each, or into none, or blocks that need more indices
than there are bytes.

The number of indices is the header's n, their bytes must be exactly there, and both sides cut the same blocks from the
scales: as many as n, or the payload is refused.
"""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.codecs import SharedState, codec_of
from common.codecs.relative import _cut
from common.errors import BadGeometry, OversizedPayload, PayloadError, TruncatedPayload
from common.theta import ONE
from tests.attacks.targets import Target, refused, target


def blocks(attack: Target, scales: bytes, goal: int) -> int:
    """Into how many blocks these scales cut the positions."""
    return _cut(scales, attack.shared, goal, np.empty(0, np.uint32))


def test_each_fault_has_its_error() -> None:
    attack = target("relative")
    n, body = attack.n, attack.body
    cases: list[tuple[int, bytes, type[PayloadError]]] = [
        (n, body[:-1], TruncatedPayload),
        (n, body[:3], TruncatedPayload),
        (0, b"", TruncatedPayload),
        (n, body + b"\0", OversizedPayload),
        (n, bytes([5]) + body[1:], BadGeometry),
        (n, bytes([15]) + body[1:], BadGeometry),
        (n, b"\xff" + body[1:], BadGeometry),
        (n, body[:1] + b"\0" + body[2:], BadGeometry),
        (n, body[:2] + bytes([min(body[2] + 16, 255)]) + body[3:], BadGeometry),
        (0, body[:4], BadGeometry),
        (n + 1, body + b"\0", BadGeometry),
        (attack.shared.d, body, TruncatedPayload),
    ]
    for number, changed, error in cases:
        with pytest.raises(error):
            attack.codec.decode(attack.repack(changed, number), attack.shared)


def test_fill_bits_must_be_zero() -> None:
    attack = target("relative")
    scales = attack.body[2:4]
    counts = ((goal, blocks(attack, scales, goal)) for goal in range(80, 120))
    goal, number = next((goal, number) for goal, number in counts if 7 * number % 8)
    front, size = bytes([7, goal]) + scales, -(-7 * number // 8)
    assert not refused(attack, attack.repack(front + bytes(size), number))
    with pytest.raises(BadGeometry, match="fill bits"):
        attack.codec.decode(attack.repack(front + bytes(size - 1) + b"\1", number), attack.shared)


def test_a_block_of_every_position_needs_an_index_for_every_position() -> None:
    """The largest scale and the smallest target: as many indices must then be there, or nothing is done."""
    attack = target("relative")
    d = attack.shared.d
    front = struct.pack("BB", 8, 1) + b"\xff" * 2
    with pytest.raises(TruncatedPayload):
        attack.codec.decode(attack.repack(front + bytes(100), d), attack.shared)
    with pytest.raises(BadGeometry, match=f"into {d} blocks"):
        attack.codec.decode(attack.repack(front + bytes(100), 100), attack.shared)
    mask = attack.codec.decode(attack.repack(front + bytes(d), d), attack.shared)
    assert mask.mean() == pytest.approx(attack.shared.theta.mean() / ONE, abs=0.02)


@pytest.mark.parametrize("bits", [6, 14])
@pytest.mark.parametrize("goal", [1, 255])
@pytest.mark.parametrize("scales", [b"\0\0", b"\1\1", b"\0\xff", b"\xff\0", b"\xff\xff"])
def test_every_index_at_the_extremes_of_bits_target_and_scales(bits: int, goal: int, scales: bytes) -> None:
    attack = target("relative", d=3_000)
    number = blocks(attack, scales, goal)
    size = -(-bits * number // 8)
    for indices in (bytes(size), np.packbits(np.ones(bits * number, np.uint8)).tobytes()):
        assert not refused(attack, attack.repack(bytes([bits, goal]) + scales + indices, number))
    for wrong in {0, 1, number - 1, number + 1, attack.shared.d} - {number, -1}:
        lying = bytes([bits, goal]) + scales + bytes(-(-bits * wrong // 8))
        assert refused(attack, attack.repack(lying, wrong))


@pytest.mark.parametrize("value", [1, ONE // 2, ONE - 1])
def test_scales_on_any_theta_in_bounded_memory(value: int) -> None:
    d = 100_000
    attack = target("relative", d=d)
    shared = SharedState(np.full(d, value, np.uint16), 1, 3, 2, attack.shared.segments)
    same = Target(attack.codec, shared, attack.payload)
    tracemalloc.start()
    try:
        for scale in range(0, 256, 5):
            refused(same, same.repack(bytes([8, 84, scale, 255 - scale]) + bytes(50), 50))
        assert tracemalloc.get_traced_memory()[1] < 16 * d
    finally:
        tracemalloc.stop()


@settings(max_examples=150)
@given(st.data())
def test_any_changes_under_any_number_of_blocks(data: st.DataObject) -> None:
    attack = target("relative")
    changed = bytearray(attack.body)
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.one_of(st.integers(0, 4), st.integers(0, len(changed) - 1)))
        changed[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([None, None, data.draw(st.integers(0, len(changed)))]))
    body = bytes(changed[:cut]) + data.draw(st.sampled_from([b"", b"", b"\0", b"\xff" * 9]))
    payload = attack.repack(body, data.draw(st.sampled_from([attack.n] * 3 + [0, 1, attack.shared.d])))
    if not refused(attack, payload):
        mask = codec_of(payload).decode(payload, attack.shared)
        # Whatever the indices, each block is a sample of theta: nobody can flip more than chance does, by much.
        assert abs(mask.mean() - attack.shared.theta.mean() / ONE) < 0.2
