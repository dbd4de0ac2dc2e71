"""Building a 3-wise binary fuse filter (Graf, Lemire 2022) with 32-bit fingerprints, which pyfusefilter's core does not
offer.

Every key owns three slots, one in each of three consecutive segments. Peeling finds an order in which each key has a
slot that no later key uses: a slot with a single key gives that key up, which may leave single keys in its two other
slots, and so on. Filling the slots in the reverse order makes the three of every key add up (xor) to its fingerprint.
Hashes and geometry are those of the smaller filters, so one membership loop serves all three; sizes come from integers
only, so that equal keys give equal bytes on any machine.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from common.codecs.distance import log2_fixed
from common.errors import EncodeError

__all__ = ["build_fingerprints32"]

_MAX_LOG2_LENGTH = 18
# floor(log(n) / log(3.33) + 2.25) is the paper's log2 of the segment length; here, the smallest n at which it reaches
# 2, 3, 4 ...: no logarithm may round differently.
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
_SEEDS = 100
_GROWTHS_PERCENT = (100, 105, 110, 120, 150, 200, 400)
_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


def build_fingerprints32(keys: NDArray[np.uint64]) -> tuple[int, int, int, NDArray[np.uint32]]:
    """Build a filter of distinct keys.

    Parameters
    ----------
    keys
        uint64 ``(n,)``, distinct, n at least 1.

    Returns
    -------
    Seed, segment length, segment count and the fingerprints, uint32 ``((segment_count + 2) * segment_length,)``.

    Raises
    ------
    EncodeError
        If no seed works at any size, which means that the keys are not distinct.
    """
    for percent in _GROWTHS_PERCENT:
        length, count = _geometry(len(keys) * percent // 100)
        for attempt in range(_SEEDS):
            seed = _seed(attempt)
            slots, hashes = _peel(
                keys, np.uint64(seed), np.uint64(length), np.uint64(count * length), (count + 2) * length
            )
            if len(slots) == len(keys):
                fingerprints = _fill(slots, hashes, np.uint64(length), np.uint64(count * length), (count + 2) * length)
                return seed, length, count, fingerprints
    raise EncodeError(f"no binary fuse filter found for {len(keys)} keys: they are probably not distinct")


def _geometry(n: int) -> tuple[int, int]:
    """Segment length and count for n keys: the original's rules with integers."""
    log2_length = min(1 + sum(n >= step for step in _LENGTH_STEPS), _MAX_LOG2_LENGTH)
    if n <= 1:
        return 1 << log2_length, 1
    # n * max(1.125, 0.875 + 0.25 * log(1e6) / log(n)): few keys need more room.
    logs = log2_fixed(np.array([1_000_000, n]))
    capacity = max(n * 9 // 8, n * 7 // 8 + n * int(logs[0]) // (4 * int(logs[1])))
    # Segments shorter than the paper's while there are too few of them for the peeling to run along.
    while log2_length > 8 and -(-capacity >> log2_length) < 34:
        log2_length -= 1
    return 1 << log2_length, max(1, -(-capacity >> log2_length) - 2)


def _seed(attempt: int) -> int:
    """SplitMix64's output number ``attempt``: which seeds are tried is part of the format, since equal input must give
    equal bytes.
    """
    z = (attempt + 1) * _GOLDEN & _WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _WORD
    return z ^ (z >> 31)


@numba.njit(nogil=True, cache=True, inline="always")  # type: ignore[untyped-decorator]
def _slots(h: Any, length: Any, count_length: Any) -> Any:  # pragma: no cover - compiled
    """The three slots of a hash, as membership computes them; all uint64."""
    u32, mask = np.uint64(32), length - np.uint64(1)
    h0 = ((h >> u32) * count_length + (((h & np.uint64(0xFFFFFFFF)) * count_length) >> u32)) >> u32
    return h0, (h0 + length) ^ ((h >> np.uint64(18)) & mask), (h0 + length + length) ^ (h & mask)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _hash_in_order(keys: Any, seed: Any) -> Any:  # pragma: no cover - compiled
    """Hashes of the keys, roughly ascending (by their top bits, a counting sort): neighbours share segments, which
    keeps peeling in the cache.
    """
    u33 = np.uint64(33)
    bits = 1
    while (1 << bits) < keys.size >> 4 and bits < 16:
        bits += 1
    shift = np.uint64(64 - bits)
    hashes, at = np.empty(keys.size, np.uint64), np.zeros((1 << bits) + 1, np.int64)
    for i in range(keys.size):
        h = keys[i] + seed
        h ^= h >> u33
        h *= np.uint64(0xFF51AFD7ED558CCD)
        h ^= h >> u33
        h *= np.uint64(0xC4CEB9FE1A85EC53)
        h ^= h >> u33
        hashes[i] = h
        at[np.int64(h >> shift) + 1] += 1
    for i in range(1 << bits):
        at[i + 1] += at[i]
    ordered = np.empty_like(hashes)
    for i in range(keys.size):
        bucket = np.int64(hashes[i] >> shift)
        ordered[at[bucket]] = hashes[i]
        at[bucket] += 1
    return ordered


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _peel(keys: Any, seed: Any, length: Any, count_length: Any, size: Any) -> Any:  # pragma: no cover - compiled
    """Slots and hashes in the order of peeling; fewer than there are keys when this seed does not work."""
    # A slot keeps how many keys it has and the xor of their hashes: with one key left, that is its hash.
    count, folded = np.zeros(size, np.uint32), np.zeros(size, np.uint64)
    for h in _hash_in_order(keys, seed):
        for slot in _slots(h, length, count_length):
            count[slot] += np.uint32(1)
            folded[slot] ^= h
    # A slot enters the queue when it falls to one key, which happens once: the queue never outgrows the slots.
    queue, waiting = np.empty(size, np.uint32), 0
    for slot in range(size):
        if count[slot] == 1:
            queue[waiting] = slot
            waiting += 1
    slots, hashes, done = np.empty(keys.size, np.uint32), np.empty(keys.size, np.uint64), 0
    while waiting:
        waiting -= 1
        single = queue[waiting]
        if count[single] != 1:
            continue  # its key went with another slot
        h = folded[single]
        slots[done] = single
        hashes[done] = h
        done += 1
        for slot in _slots(h, length, count_length):
            count[slot] -= np.uint32(1)
            folded[slot] ^= h
            if count[slot] == 1:
                queue[waiting] = slot
                waiting += 1
    return slots[:done], hashes[:done]


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _fill(slots: Any, hashes: Any, length: Any, count_length: Any, size: Any) -> Any:  # pragma: no cover - compiled
    """Fingerprints, from the last peeled key to the first; a slot is written once, when its key is."""
    fingerprints = np.zeros(size, np.uint32)
    for i in range(hashes.size - 1, -1, -1):
        h = hashes[i]
        h0, h1, h2 = _slots(h, length, count_length)
        others = fingerprints[h0] ^ fingerprints[h1] ^ fingerprints[h2]  # its own slot is still zero
        fingerprints[slots[i]] = np.uint32(h ^ (h >> np.uint64(32))) ^ others
    return fingerprints
