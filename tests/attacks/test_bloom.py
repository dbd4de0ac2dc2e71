"""The attacker sends a Bloom filter that matches everything, or one whose size lies.

The size follows from n and k and must be what is there; n keys set at most n k bits, and random ones about half.
"""

from __future__ import annotations

import pytest

from common.errors import BadGeometry, ImplausibleDelta, PayloadError, TruncatedPayload
from tests.attacks.targets import refused, target


def size(n: int, hashes: int) -> int:
    """Bytes of the table."""
    return -(-max(8, (n * hashes * 94_549 >> 16) + 1) // 8)


@pytest.mark.parametrize(("n", "hashes"), [(1, 1), (1, 8), (1, 32), (2, 1), (2, 2), (7, 3), (100, 8), (5_000, 8)])
def test_the_all_ones_filter_is_dropped_at_every_size(n: int, hashes: int) -> None:
    attack = target("bloom")
    with pytest.raises(ImplausibleDelta, match="bits are set"):
        attack.codec.decode(attack.repack(bytes([hashes]) + b"\xff" * size(n, hashes), n), attack.shared)


@pytest.mark.parametrize("hashes", [1, 8, 32])
def test_a_filter_that_matches_less_than_its_keys_is_dropped(hashes: int) -> None:
    attack = target("bloom")
    for n in (1, 10, 1_000):
        with pytest.raises(ImplausibleDelta, match="matches 0"):
            attack.codec.decode(attack.repack(bytes([hashes]) + bytes(size(n, hashes)), n), attack.shared)


def test_numbers_that_do_not_fit_the_table() -> None:
    attack = target("bloom")
    d, n, body = attack.shared.d, attack.n, attack.body
    cases: list[tuple[int, bytes, type[PayloadError]]] = [
        (n, b"", TruncatedPayload),
        (0, body, BadGeometry),
        (n, body + b"\0", BadGeometry),
        (n, b"\0" + body[1:], BadGeometry),
        (n, bytes([33]) + body[1:], BadGeometry),
        (n, b"\xff" + body[1:], BadGeometry),
        (n, body[:1], BadGeometry),
        (d, body, BadGeometry),
        (n + 9, body, BadGeometry),
    ]
    for number, changed, error in cases:
        with pytest.raises(error):
            attack.codec.decode(attack.repack(changed, number), attack.shared)


def test_more_bits_set_than_random_keys_set() -> None:
    """Up to there a filter only grows by a few mistakes; how many is bounded by its own share of ones."""
    attack = target("bloom", d=200_000)
    table = bytearray(attack.body[1:])
    accepted = 0
    for step in range(0, len(table), max(1, len(table) // 60)):
        table[step : step + len(table) // 60] = b"\xff" * len(table[step : step + len(table) // 60])
        if refused(attack, attack.repack(attack.body[:1] + bytes(table))):
            break
        accepted += 1
    assert accepted <= 12, f"{accepted} of 60 parts could be filled with ones"
