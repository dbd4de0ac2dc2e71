"""The attacker sends a few bytes that claim to describe a great deal, or words that no encoder wrote, hoping that a
decoder allocates from its numbers, never ends, or fails in a way of its own.

Any words decode to something on the ANS stack, so the work is what the receiver's own d and layers ask for; what is
left on the stack, and the number of ones, tell damage.
"""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest

from common.codecs import SharedState
from common.codecs.contexts import LAYOUTS
from common.errors import BadCode, BadGeometry, ImplausibleDelta, PayloadError, TruncatedPayload
from tests.attacks.targets import Target, refused, target
from tests.conftest import local_step

LAYERS = 300
"""Above the number of layers that have contexts of their own."""


def layered(name: str, layers: int) -> Target:
    attack = target(name, d=60_000)
    sizes = tuple(np.diff(np.linspace(0, 60_000, layers + 1).astype(int)).tolist())
    shared = SharedState(attack.shared.theta, 1, 3, 2, sizes)
    return Target(attack.codec, shared, attack.codec.encode(local_step(shared.theta, seed=5), shared))


@pytest.mark.parametrize("n", [1, 2, 999, 10_000, 20_000])
def test_a_few_bytes_that_claim_n_flips(n: int) -> None:
    attack = target("exact")
    for layout in range(256):
        for words in (b"", b"\1\0\0\0", b"\xff" * 4, b"\xff" * 64):
            reach = struct.pack("<H", 65_535 if layout % 2 else 0)
            assert refused(attack, attack.repack(bytes([layout]) + (reach if layout else b"") + words, n))


def test_noise_in_every_layout_in_bounded_memory() -> None:
    attack = target("exact")
    rng = np.random.default_rng(3)
    refused(attack, attack.payload)  # tables and compiled code
    tracemalloc.start()
    try:
        for trial in range(150):
            body = bytes([trial % (len(LAYOUTS) + 3)]) + rng.bytes(2 + 4 * int(rng.integers(0, 60)))
            assert refused(attack, attack.repack(body, int(rng.integers(1, attack.shared.d))))
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("layers", [256, LAYERS])
def test_as_many_contexts_as_there_can_be(layers: int) -> None:
    """65,536 of them at most: a context is a cell of a layer, and more layers than 256 are taken as one."""
    attack = layered("exact", layers)
    rng = np.random.default_rng(4)
    for layout in (12, 24):
        front = bytes([layout]) + b"\xff\xff"
        for body in (front, front + rng.bytes(400), front + rng.bytes(attack.shared.d)):
            assert refused(attack, attack.repack(body[: len(body) - (len(body) - 3) % 4]))


def test_each_kind_of_damage_has_its_error() -> None:
    attack = target("exact")
    n, body = attack.n, attack.body
    for changed, number, error in (
        (b"", n, TruncatedPayload),
        (body[:2], n, TruncatedPayload),
        (body[:-1], n, TruncatedPayload),
        (bytes([25]) + body[1:], n, BadGeometry),
        (b"\xff" + body[1:], n, BadGeometry),
        (body, 0, BadGeometry),
        (body + b"\1\0\0\0", n, BadCode),
        (body + bytes(4), n, BadCode),
        (body, n + 1, ImplausibleDelta),
        (body, attack.shared.d, ImplausibleDelta),
    ):
        with pytest.raises(error):
            attack.codec.decode(attack.repack(changed, number), attack.shared)


def test_a_bitmap_of_few_bytes_or_with_shares_at_their_extremes() -> None:
    attack = layered("bitmap", LAYERS)
    d, shares, words = attack.shared.d, attack.body[: 2 * LAYERS], attack.body[2 * LAYERS :]
    honest = attack.n
    cases: list[tuple[bytes, int, type[PayloadError]]] = [
        (b"", honest, TruncatedPayload),
        (shares[:-1], honest, TruncatedPayload),
        (shares, honest, PayloadError),
        (shares + words[:-1], honest, TruncatedPayload),
        (shares + words[:-4] + bytes(4), honest, BadCode),
        (shares + words + b"\1\0\0\0", honest, BadCode),
        (bytes(2 * LAYERS) + words, honest, PayloadError),
        (b"\xff" * 2 * LAYERS + words, honest, PayloadError),
        (shares + words, honest - 1, ImplausibleDelta),
        (shares + words, d, ImplausibleDelta),
        (shares + words, 0, ImplausibleDelta),
    ]
    for body, n, error in cases:
        with pytest.raises(error):
            attack.codec.decode(attack.repack(body, n), attack.shared)


def test_a_mask_that_a_share_makes_nearly_free_is_still_counted() -> None:
    """No words at all are a code, too: of the likelier bit everywhere. It is a mask of n ones, or it is refused."""
    attack = target("bitmap")
    d = attack.shared.d
    assert refused(attack, attack.repack(b"\0\0" * 2, d))
    for share in (b"\0\0", b"\xff\xff"):
        for n in (0, 1, d // 2, d):
            if not refused(attack, attack.repack(share * 2, n)):
                assert np.count_nonzero(attack.codec.decode(attack.repack(share * 2, n), attack.shared)) == n
