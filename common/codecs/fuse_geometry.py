"""How large a 3-wise binary fuse filter is: segment length and count for n keys, the same on every machine.

Two rules, one for all widths of fingerprints. Below `TIGHT_KEYS` it is the one of Graf and Lemire's reference
implementation (2022), with integers instead of its logarithms. From there on it is ours, `tight_geometry`: at most
1.1375 slots a key, 9.1 bits with 8-bit fingerprints, where the reference takes 1.19 slots at 100,000 keys and 1.146 at
350,000. docs/wire-format.md has the reasons and what was measured.
"""

from __future__ import annotations

import numpy as np

from common.codecs.distance import log2_fixed

__all__ = ["MAX_SEGMENT_LENGTH", "TIGHT_KEYS", "reference_geometry", "tight_geometry"]

MAX_SEGMENT_LENGTH = 262_144
_MOST_SLOTS = (91, 80)
"""Slots a key, at most: 9.1 / 8."""
_FEWEST_KEYS = 96
"""Keys a slot of a segment's length, at least: so many segments that the two which every filter has beyond its keys
cost 2 %, and yet so long that few pairs of keys share all three slots."""
TIGHT_KEYS = 1024 * _FEWEST_KEYS
"""Fewest keys for the tight rule. Segments below 1,024 would have such pairs in every other filter: n keys have about
n / (2 length^2)."""

# floor(log(n) / log(3.33) + 2.25) is the reference's log2 of the segment length; here, the smallest n at which it
# reaches 2, 3, 4 ...: no logarithm may round differently.
_LENGTH_STEPS = (
    1,
    3,
    9,
    28,
    92,
    304,
    1_010,
    3_362,
    11_193,
    37_273,
    124_118,
    413_310,
    1_376_322,
    4_583_150,
    15_261_887,
    50_822_082,
    169_237_530,
)


def tight_geometry(n: int) -> tuple[int, int]:
    """Segment length and count for ``n >= TIGHT_KEYS`` keys: the longest power of two with 96 keys to each slot of its
    length, and as many segments as 1.1375 slots a key allow (our choice).
    """
    length = min(1 << (n // _FEWEST_KEYS).bit_length() - 1, MAX_SEGMENT_LENGTH)
    slots, keys = _MOST_SLOTS
    return length, n * slots // (keys * length) - 2


def reference_geometry(n: int) -> tuple[int, int]:
    """Segment length and count for n keys: the reference implementation's rules with integers."""
    log2_length = min(1 + sum(n >= step for step in _LENGTH_STEPS), MAX_SEGMENT_LENGTH.bit_length() - 1)
    if n <= 1:
        return 1 << log2_length, 1
    # n * max(1.125, 0.875 + 0.25 * log(1e6) / log(n)): few keys need more room.
    logs = log2_fixed(np.array([1_000_000, n]))
    capacity = max(n * 9 // 8, n * 7 // 8 + n * int(logs[0]) // (4 * int(logs[1])))
    # Segments shorter than the paper's while there are too few of them for the peeling to run along.
    while log2_length > 8 and -(-capacity >> log2_length) < 34:
        log2_length -= 1
    return 1 << log2_length, max(1, -(-capacity >> log2_length) - 2)
