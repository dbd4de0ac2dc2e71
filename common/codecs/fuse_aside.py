"""The keys that peeling could not place: they are solved for with the slots that no peeled key determines.

Every key is an equation: the xor of its three slots is its fingerprint. A peeled key determines one slot from the two
others. About an eighth of all slots is determined by no key and is free to choose. Expressed in free slots alone, the k
equations set aside are a linear system of k rows, and k independent columns among some thousand free slots solve it.
They exist unless two keys share all three slots, or some set of keys has fewer slots than keys.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from common.codecs.fuse_hash import fingerprint_of, slots_of

__all__ = ["solve_aside"]


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def solve_aside(  # pragma: no cover - compiled
    slots: Any, hashes: Any, aside: Any, length: Any, count_length: Any, fingerprints: Any
) -> bool:
    """Set free slots so that the equations set aside hold once all peeled keys are filled in.

    Parameters
    ----------
    slots, hashes
        Of the keys peeled after the first one was set aside, in the order of peeling; uint32 and uint64.
    aside
        Hashes of the keys set aside, uint64 ``(k,)``.
    length, count_length
        Segment length, and segment length times count; uint64.
    fingerprints
        Filled for these keys, and zero elsewhere; at most k free slots are written.

    Returns
    -------
    False if the equations depend on each other.
    """
    rows = _in_free_slots(slots, hashes, aside, length, count_length, fingerprints.size)
    # What each equation lacks, with zeros in the free slots.
    k, words = aside.size, rows.shape[1]
    missing = np.empty(k, fingerprints.dtype)
    for j in range(k):
        h0, h1, h2 = slots_of(aside[j], length, count_length)
        others = fingerprints[h0] ^ fingerprints[h1] ^ fingerprints[h2]
        missing[j] = fingerprint_of(aside[j], fingerprints) ^ others
    # Independent columns by elimination: reduced[r] is the one whose first equation is r, made[r] says of which chosen
    # columns it is the sum.
    reduced, made, has = np.zeros((k, words), np.uint64), np.zeros((k, words), np.uint64), np.zeros(k, np.bool_)
    chosen, rank = np.empty(k, np.int64), 0
    column, sum_of = np.empty(words, np.uint64), np.empty(words, np.uint64)
    for slot in range(fingerprints.size):
        if rank == k:
            break
        used = np.uint64(0)
        for word in range(words):  # most slots are in no equation: no array operation for those
            used |= rows[slot, word]
        if used == 0:
            continue
        column[:] = rows[slot]
        sum_of[:] = np.uint64(0)
        for r in range(k):
            if not _bit(column, r):
                continue
            if not has[r]:
                sum_of[rank >> 6] ^= np.uint64(1) << np.uint64(rank & 63)
                reduced[r], made[r], has[r] = column, sum_of, True
                chosen[rank] = slot
                rank += 1
                break
            for word in range(words):
                column[word] ^= reduced[r, word]
                sum_of[word] ^= made[r, word]
    if rank < k:
        return False
    # reduced[r] touches no equation before r: one pass settles them all.
    for r in range(k):
        value = missing[r]
        for other in range(k):
            if _bit(reduced[r], other):
                missing[other] ^= value
            if _bit(made[r], other):
                fingerprints[chosen[other]] ^= value
    return True


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _in_free_slots(  # pragma: no cover - compiled
    slots: Any, hashes: Any, aside: Any, length: Any, count_length: Any, size: Any
) -> Any:
    """Which equations each slot occurs in once peeled keys are put in for the slots they determine, and which then
    occur in none: bits, uint64 ``(size, words)``.
    """
    rows = np.zeros((size, (aside.size + 63) >> 6), np.uint64)
    for j in range(aside.size):
        for slot in slots_of(aside[j], length, count_length):
            rows[slot, j >> 6] ^= np.uint64(1) << np.uint64(j & 63)
    # In the order of peeling: no key after this one has its slot, so that slot's bits are final.
    for i in range(slots.size):
        for word in range(rows.shape[1]):
            bits = rows[slots[i], word]
            if bits:
                for slot in slots_of(hashes[i], length, count_length):
                    rows[slot, word] ^= bits
    return rows


@numba.njit(nogil=True, cache=True, inline="always")  # type: ignore[untyped-decorator]
def _bit(row: Any, index: Any) -> Any:  # pragma: no cover - compiled
    return (row[index >> 6] >> np.uint64(index & 63)) & np.uint64(1)
