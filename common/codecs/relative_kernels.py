"""The arithmetic of ``relative``: shared candidates, block boundaries, importance weights. Integers only, so that every
machine gets the same bytes.

**Candidates.** Candidate j of a block is the mask ``[u_j < theta]`` with 16-bit uniforms u_j, drawn 64 candidates at a
time as bit planes: SplitMix64 word ``(16 i + p) G + g`` (counter mode, `common.splitmix`) holds bit 15 - p of u
at position i for candidates ``64 g .. 64 g + 63``; G is the number of such groups. Comparing planes from the top
decides a lane with probability 1/2 each, so the encoder needs about 7 words for 64 candidates instead of 16, and the
decoder, which wants one lane, about 2.

**Weights.** log2(p/q) of a whole block is a constant plus a sum over the positions where the rarer bit was drawn (5 %
of them at theta = 0.95), so only those are added up, in units of 2^-16 bits.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from common.splitmix import GOLDEN, mix
from common.theta import ONE

__all__ = [
    "EXP2",
    "KL_ONE",
    "LOG2",
    "LOG_ODDS",
    "MAX_DROP",
    "TILT_STEPS",
    "block_starts",
    "choose",
    "divergence",
    "draw",
    "shrink",
]

KL_ONE = 1 << 32
"""One bit of KL in the integer unit of the predicted and of the true divergence."""

LOG2 = np.array([0, *(round(math.log2(v) * (1 << 24)) for v in range(1, ONE + 1))], dtype=np.int64)
"""log2 of 0..65536 in units of 2^-24 (entry 0 is never read): rounded so coarsely that no machine's last bit of log2
shows.
"""

LOG_ODDS = ((LOG2 - LOG2[::-1]) + (1 << 7)) >> 8
"""log2(v / (65536 - v)) for v = 1..65535, int64 in units of 2^-16; strictly increasing there."""

EXP2 = np.array([round(2.0 ** (24 - i / 1024)) for i in range(1024)], dtype=np.int64)
"""2^(-i / 1024) in units of 2^-24."""

TILT_STEPS = 1024
"""The largest tilt, in 1/32: tilts are 0, 1/32, .. 32."""

MAX_DROP = 1 << 24
"""256 bits below the best candidate: its weight is zero anyway, and sums stay below 2^63."""

_FIXED_PLANES = 8  # of 16; measured, between 6 and 10
_RUN = 256  # positions that the decoder treats at a time

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@intrinsic  # type: ignore[untyped-decorator]
def _trailing_zeros(context: Any, word: Any) -> Any:  # pragma: no cover - compiled
    """Index of the lowest set bit of a word that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return numba.uint64(numba.uint64), generate


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def divergence(theta: Any, local: Any, log2: Any) -> Any:  # pragma: no cover - compiled
    """Sum of KL(Bern(local) || Bern(theta)) in units of 2^-32 bits, and sum of theta (65536 - theta); both int64.

    The sums are exact, so it does not matter how a caller cuts a segment into parts.
    """
    total, spread = np.int64(0), np.int64(0)
    for i in range(theta.size):
        q, p = np.int64(theta[i]), np.int64(local[i])
        spread += q * (ONE - q)
        if p != q:
            kl = p * (log2[p] - log2[q]) + (ONE - p) * (log2[ONE - p] - log2[ONE - q])
            total += max(kl >> 8, 0)
    return total, spread


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def shrink(theta: Any, local: Any, step: Any, log_odds: Any, out: Any) -> None:  # pragma: no cover - compiled
    """Write the grid value whose log-odds are ``step / 65536`` of the way from theta's to local's, or comes nearest.

    Integer tables and a binary search instead of exp: a client's bytes must not depend on its mathematical library.
    """
    for i in range(theta.size):
        q, p = np.int64(theta[i]), np.int64(local[i])
        if p == q:
            out[i] = q
            continue
        wanted = log_odds[q] + ((step * (log_odds[p] - log_odds[q]) + 32_768) >> 16)
        low, high = min(p, q), max(p, q)
        while low < high:  # the first grid value whose log-odds reach `wanted`
            middle = (low + high) >> 1
            if log_odds[middle] < wanted:
                low = middle + 1
            else:
                high = middle
        if low > min(p, q) and 2 * wanted < log_odds[low] + log_odds[low - 1]:
            low -= 1
        out[i] = low


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def block_starts(
    theta: Any, ends: Any, factors: Any, shifts: Any, target: Any, starts: Any
) -> Any:  # pragma: no cover - compiled
    """Cut positions into blocks of at most ``target`` predicted KL (2^-32 bits); a position that alone has more is a
    block of its own.

    Parameters
    ----------
    theta
        uint16 ``(d,)``.
    ends, factors, shifts
        int64, one a segment: where it ends, and its scale: predicted KL of a position is ``theta (65536 - theta) factor
        >> shift``.
    target
        int64, above 0.
    starts
        uint32, filled as far as it is long (an empty array only counts).

    Returns
    -------
    The number of blocks, 0 if nothing is predicted to have changed. The first block starts at 0 and the last ends at d.
    """
    count, filled, begin = 0, np.int64(0), 0
    for segment in range(ends.size):
        factor, shift, end = factors[segment], shifts[segment], ends[segment]
        if factor > 0:
            for i in range(begin, end):
                q = np.int64(theta[i])
                kl = (q * (ONE - q) * factor) >> shift
                if filled > 0 and filled + kl > target:
                    if count < starts.size:
                        starts[count] = i
                    count += 1
                    filled = kl
                else:
                    if count == 0 and kl > 0:
                        if starts.size > 0:
                            starts[0] = 0
                        count = 1
                    filled += kl
        begin = end
    return count


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def choose(
    key: Any,
    choice_key: Any,
    theta: Any,
    local: Any,
    starts: Any,
    first: Any,
    bits: Any,
    log_odds: Any,
    exp2: Any,
    out: Any,
) -> None:  # pragma: no cover - compiled
    """Choose the candidate of blocks ``first .. first + out.size - 1``.

    Parameters
    ----------
    key, choice_key
        uint64: streams of the candidates and of the choice among them.
    theta, local
        uint16 ``(d,)``.
    starts
        uint32, one longer than there are blocks: the last entry is d.
    first
        The first block to choose for.
    bits
        log2 of the number of candidates, at least 6.
    log_odds, exp2
        The tables `LOG_ODDS` and `EXP2`.
    out
        uint16, the indices.
    """
    groups = 1 << (bits - 6)
    ones, open_ = np.empty(groups, np.uint64), np.empty(groups, np.uint64)
    weights = np.empty(64 * groups, np.int64)
    for block in range(out.size):
        weights[:] = 0
        expected = np.int64(0)  # what the sum is on average over Bern(local), in 2^-24 bits
        for i in range(np.int64(starts[first + block]), np.int64(starts[first + block + 1])):
            q, p = np.int64(theta[i]), np.int64(local[i])
            if p == q:
                continue  # the candidates agree about it
            gain = log_odds[p] - log_odds[q]
            flip = np.uint64(0)
            if q >= ONE // 2:  # zeros are rarer
                gain, p, flip = -gain, ONE - p, _ALL
            expected += (gain * p + 128) >> 8
            bits_of_q = np.uint64(q)
            base = key + (np.uint64(i) * np.uint64(16 * groups) + np.uint64(1)) * GOLDEN
            ones[:] = np.uint64(0)
            open_[:] = _ALL
            # nearly every lane is decided by the first planes: done for all groups without a branch, which the compiler
            # turns into vector code
            for plane in range(_FIXED_PLANES):
                one = np.uint64(0) - ((bits_of_q >> np.uint64(15 - plane)) & np.uint64(1))
                row = base + np.uint64(plane * groups) * GOLDEN
                for g in range(groups):
                    word = mix(row + np.uint64(g) * GOLDEN)
                    ones[g] |= open_[g] & ~word & one
                    open_[g] &= ~(word ^ one)
            for g in range(groups):
                below, left = ones[g], open_[g]
                plane = _FIXED_PLANES
                while left != np.uint64(0) and plane < 16:
                    one = np.uint64(0) - ((bits_of_q >> np.uint64(15 - plane)) & np.uint64(1))
                    word = mix(base + np.uint64(plane * groups + g) * GOLDEN)
                    below |= left & ~word & one
                    left &= ~(word ^ one)
                    plane += 1
                rare = below ^ flip
                while rare != np.uint64(0):
                    weights[(g << 6) + np.int64(_trailing_zeros(rare))] += gain
                    rare &= rare - np.uint64(1)
        out[block] = _pick(
            weights, (expected + 128) >> 8, mix(choice_key + np.uint64(first + block + 1) * GOLDEN), exp2
        )


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _pick(weights: Any, expected: Any, random: Any, exp2: Any) -> Any:  # pragma: no cover - compiled
    """Draw an index with probability proportional to ``2^(tilt * weight)``, at the smallest tilt whose average weight
    is ``expected``.

    Plain importance sampling has tilt 1. With as few candidates as fit the bits it falls short: good ones are missing
    too often, and the decoded mean keeps 85 % of the step. Matching the mean of the log-ratio, block by block, keeps 96
    to 98 % (our choice). ``weights`` is overwritten.
    """
    best = weights.max()
    for j in range(weights.size):
        weights[j] = min(best - weights[j], MAX_DROP)
    wanted = max(min(best - expected, MAX_DROP), -1)
    low, high = 0, TILT_STEPS
    while low < high:
        tilt = (low + high) >> 1
        total, dropped = _moments(weights, tilt, exp2)
        if dropped <= wanted * total:
            high = tilt
        else:
            low = tilt + 1
    total, dropped = _moments(weights, low, exp2)
    threshold = np.int64(random >> np.uint64(40)) * total >> 24
    for j in range(weights.size):
        drop = (weights[j] * low) >> 11
        if drop < 25 << 10:
            threshold -= exp2[drop & 1023] >> (drop >> 10)
            if threshold < 0:
                return j
    return 0


@numba.njit(nogil=True, cache=True, inline="always")  # type: ignore[untyped-decorator]
def _moments(drops: Any, tilt: Any, exp2: Any) -> Any:  # pragma: no cover - compiled
    """Sums of ``2^(-tilt drop)`` and of that times the drop, in the units of `EXP2` and of the drops (2^-16 bits); tilt
    in 1/32.
    """
    total, dropped = np.int64(0), np.int64(0)
    for j in range(drops.size):
        drop = (drops[j] * tilt) >> 11
        if drop < 25 << 10:
            weight = exp2[drop & 1023] >> (drop >> 10)
            total += weight
            dropped += weight * drops[j]
    return total, dropped


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def draw(
    key: Any, theta: Any, starts: Any, block: Any, begin: Any, indices: Any, bits: Any, out: Any
) -> None:  # pragma: no cover - compiled
    """Write positions ``begin .. begin + out.size - 1`` of the chosen candidates; ``begin`` lies in ``block``.

    Parameters
    ----------
    key, theta, starts, bits
        As in `choose`.
    block, begin
        Where to begin.
    indices
        uint16, one a block.
    out
        bool.
    """
    groups = np.uint64(1 << (bits - 6))
    stride = groups * GOLDEN
    step = np.uint64(16) * stride
    one = np.uint64(1)
    undecided = np.empty(_RUN, np.bool_)
    i, end = begin, begin + out.size
    while i < end:
        block_end = min(end, np.int64(starts[block + 1]))
        lane, group = np.uint64(indices[block] & 63), np.uint64(indices[block] >> 6)
        while i < block_end:
            size = min(_RUN, block_end - i)
            first = key + np.uint64(i) * step + (group + one) * GOLDEN
            # four planes without a branch, as vector code, then one by one where all four equal theta's bits: at one
            # position in 16
            for k in range(size):
                word = first + np.uint64(k) * step
                u = ((mix(word) >> lane) & one) << np.uint64(3)
                u |= ((mix(word + stride) >> lane) & one) << np.uint64(2)
                u |= ((mix(word + np.uint64(2) * stride) >> lane) & one) << one
                u |= (mix(word + np.uint64(3) * stride) >> lane) & one
                top = np.uint64(theta[i + k]) >> np.uint64(12)
                out[i - begin + k] = u < top
                undecided[k] = u == top
            for k in range(size):
                if undecided[k]:
                    q = np.uint64(theta[i + k])
                    word = first + np.uint64(k) * step + np.uint64(4) * stride
                    for plane in range(4, 16):
                        bit = (q >> np.uint64(15 - plane)) & one
                        if ((mix(word) >> lane) & one) != bit:
                            out[i - begin + k] = bit == one
                            break
                        word += stride
            i += size
        block += 1
