"""Building 3-wise binary fuse filters (Graf, Lemire 2022) ourselves: with 32-bit fingerprints, which pyfusefilter's
core does not offer, and of many keys in fewer slots than it takes.

Every key owns three slots, one in each of three consecutive segments. Peeling finds an order in which each key has a
slot that no later key uses: a slot with a single key gives that key up, which may leave single keys in its two other
slots, and so on. Filling the slots in the reverse order makes the three of every key add up (xor) to its fingerprint.

Where slots are few, peeling stops at places that happen to be crowded. Then a key there is set aside and peeling goes
on (our choice; the idea is inactivation decoding, RFC 6330): a hundred of 100,000 keys, whose equations are solved
afterwards by fuse_aside.py. Membership notices nothing of it.

Everything is integer arithmetic: equal keys give equal bytes on any machine.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from common.codecs.fuse_aside import solve_aside
from common.codecs.fuse_geometry import TIGHT_KEYS, reference_geometry, tight_geometry
from common.codecs.fuse_hash import fingerprint_of, hash_of, slots_of
from common.errors import EncodeError
from common.splitmix import words

__all__ = ["MOST_ASIDE", "build_fingerprints", "peel", "try_seed"]

_SEEDS = 100
_TIGHT_SEEDS = 16
"""At most one seed in ten fails with the tight geometry."""
MOST_ASIDE = 256
"""More are needed by one filter in a thousand, and the work grows with them."""
_GROWTHS_PERCENT = (100, 105, 110, 120, 150, 200, 400)


def build_fingerprints(keys: NDArray[np.uint64], bits: int) -> tuple[int, int, int, NDArray[Any]]:
    """Build a filter of distinct keys: with the tight geometry from `TIGHT_KEYS` on, and with the reference
    implementation's below, or where no seed works with the tight one.

    Parameters
    ----------
    keys
        uint64 ``(n,)``, distinct, n at least 1.
    bits
        8, 16 or 32.

    Returns
    -------
    Seed, segment length, segment count and the fingerprints, unsigned integers of ``bits`` bits
    ``((segment_count + 2) * segment_length,)``.

    Raises
    ------
    EncodeError
        If no seed works at any size, which means that the keys are not distinct.
    """
    n = len(keys)
    plans = [(*reference_geometry(n * percent // 100), 0, _SEEDS) for percent in _GROWTHS_PERCENT]
    if n >= TIGHT_KEYS:
        plans.insert(0, (*tight_geometry(n), MOST_ASIDE, _TIGHT_SEEDS))
    for length, count, most_aside, seeds in plans:
        # Which seeds are tried is part of the format, since equal input must give equal bytes.
        for seed in words(0, 0, seeds).tolist():
            fingerprints = try_seed(keys, bits, seed, length, count, most_aside)
            if fingerprints is not None:
                return seed, length, count, fingerprints
    raise EncodeError(f"no binary fuse filter found for {n} keys: they are probably not distinct")


def try_seed(
    keys: NDArray[np.uint64], bits: int, seed: int, length: int, count: int, most_aside: int
) -> NDArray[Any] | None:
    """Fingerprints for one seed and geometry, or None if they do not work.

    Parameters
    ----------
    keys, bits
        As for `build_fingerprints`.
    seed, length, count
        Seed of the hashes, segment length and count.
    most_aside
        How many keys may be set aside; 0 is peeling alone.
    """
    slots, hashes, aside, before = peel(keys, seed, length, count, most_aside)
    if len(slots) + len(aside) < len(keys):
        return None
    sides = np.uint64(length), np.uint64(count * length)
    fingerprints = np.zeros((count + 2) * length, dtype=f"<u{bits // 8}")
    if len(aside):
        # Slots that were peeled before the first key was set aside occur neither in the keys set aside nor in the keys
        # peeled later: only the later ones matter for solving.
        later = slots[before:], hashes[before:]
        _fill(*later, *sides, fingerprints)
        if not solve_aside(*later, aside, *sides, fingerprints):
            return None
    _fill(slots, hashes, *sides, fingerprints)
    return fingerprints


def peel(
    keys: NDArray[np.uint64], seed: int, length: int, count: int, most_aside: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint64], int]:
    """Peel the keys; the parameters are those of `try_seed`.

    Returns
    -------
    Slots (uint32) and hashes (uint64) of the peeled keys in the order of peeling, the hashes set aside (uint64), and
    how many keys were peeled before the first of these. Peeled and set aside are together fewer than there are keys
    where this seed does not work.
    """
    ordered, ends = _hash_in_order(keys, np.uint64(seed))
    slots, hashes, aside, before = _peel(
        ordered, ends, np.uint64(length), np.uint64(count * length), (count + 2) * length, most_aside
    )
    return slots, hashes, aside, before


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _hash_in_order(keys: Any, seed: Any) -> Any:  # pragma: no cover - compiled
    """Hashes of the keys, roughly ascending (by their top bits, a counting sort): neighbours share segments, which
    keeps peeling in the cache. Also where each bucket of equal top bits ends.
    """
    bits = 1
    while (1 << bits) < keys.size >> 4 and bits < 16:
        bits += 1
    shift = np.uint64(64 - bits)
    # The hashes are computed twice: cheaper than to keep them.
    at = np.zeros((1 << bits) + 1, np.int64)
    for i in range(keys.size):
        at[np.int64(hash_of(keys[i], seed) >> shift) + 1] += 1
    for i in range(1 << bits):
        at[i + 1] += at[i]
    ordered = np.empty(keys.size, np.uint64)
    for i in range(keys.size):
        h = hash_of(keys[i], seed)
        bucket = np.int64(h >> shift)
        ordered[at[bucket]] = h
        at[bucket] += 1
    return ordered, at[:-1]


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _peel(  # pragma: no cover - compiled
    ordered: Any, ends: Any, length: Any, count_length: Any, size: Any, most_aside: Any
) -> Any:
    """Peel the hashes that `_hash_in_order` returns, in ``size`` slots; returns what `peel` does."""
    one = np.uint8(1)
    # A slot keeps how many keys it has and the xor of their hashes: with one key left, that is its hash. Distinct keys
    # have distinct hashes, two or three of them a slot: eight bits are enough, and half the time of 32.
    count, folded = np.zeros(size, np.uint8), np.zeros(size, np.uint64)
    for h in ordered:
        for slot in slots_of(h, length, count_length):
            count[slot] += one
            folded[slot] ^= h
    # A slot enters the queue when one key is left in it, which happens once, so the queue never has more entries than
    # there are slots. Every slot touched is written behind the end of the queue, and the end moves only for those that
    # enter: that is faster than a branch.
    queue, waiting = np.empty(size + 1, np.uint32), 0
    for slot in range(size):
        queue[waiting] = slot
        waiting += count[slot] == one
    slots, hashes, done = np.empty(ordered.size, np.uint32), np.empty(ordered.size, np.uint64), 0
    aside, put, at, before, lowest = np.empty(most_aside, np.uint64), 0, 0, 0, 0
    while True:
        if waiting:
            waiting -= 1
            single = queue[waiting]
            if count[single] != one:
                continue  # its key went with another slot
            h = folded[single]
            slots[done] = single
            hashes[done] = h
            done += 1
        else:
            # The lowest key that is left: where peeling from the lower end came to rest. No key with a slot below the
            # lowest one in use is left, so its bucket is the first to look at. A key that is gone has left its slot
            # empty. Nothing is found where all are done, or where keys repeat.
            while lowest < size and count[lowest] == 0:
                lowest += 1
            reach = max(np.int64(lowest) - 2 * np.int64(length), 0)
            bucket = min(reach * ends.size // np.int64(count_length), ends.size) - 1
            at = max(at, ends[bucket] if bucket >= 0 else 0)
            left = False
            while at < ordered.size and put < most_aside and done + put < ordered.size and not left:
                h = ordered[at]
                at += 1
                first, second, third = slots_of(h, length, count_length)
                left = count[first] > 0 and count[second] > 0 and count[third] > 0
            if not left:
                break
            if put == 0:
                before = done
            aside[put] = h
            put += 1
        for slot in slots_of(h, length, count_length):
            remaining = np.uint8(count[slot] - one)
            count[slot] = remaining
            folded[slot] ^= h
            queue[waiting] = slot
            waiting += remaining == one
    return slots[:done], hashes[:done], aside[:put], before


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _fill(slots: Any, hashes: Any, length: Any, count_length: Any, fingerprints: Any) -> None:  # pragma: no cover
    """Write the fingerprints of peeled keys, from the last to the first; the slots of no key stay as they are."""
    for i in range(hashes.size - 1, -1, -1):
        h = hashes[i]
        h0, h1, h2 = slots_of(h, length, count_length)
        others = fingerprints[h0] ^ fingerprints[h1] ^ fingerprints[h2] ^ fingerprints[slots[i]]
        fingerprints[slots[i]] = fingerprint_of(h, fingerprints) ^ others
