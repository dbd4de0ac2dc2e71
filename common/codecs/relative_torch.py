"""The choice of candidates of ``relative`` on a torch device: the same indices as `relative_kernels.choose`.

For clients that train on a GPU (our choice). Everything is 64-bit integer arithmetic modulo 2^64, as in
`common.splitmix_torch`, and sums of integers do not depend on their order, so neither the device nor its
number of threads shows in a payload. Only the choice runs here: it draws and weighs 2^b candidates a position. What is
done once a position - divergence, shrinking, block boundaries - takes the compiled loops on the CPU a twentieth of
their time for the choice, and where a block starts follows from where the one before started.

Work is laid out as (changed position, group of 64 candidates), one word each. Positions with equal probabilities weigh
nothing, whichever bit a candidate has, and are left out before anything is copied to the device.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from common.codecs.relative_kernels import EXP2, LOG_ODDS, MAX_DROP, TILT_STEPS
from common.splitmix import GOLDEN
from common.splitmix_torch import mix_torch, signed, words_torch
from common.theta import ONE

__all__ = ["DEVICE_BYTES", "choose_on"]

DEVICE_BYTES = 256 << 20
"""Largest amount of memory taken on the device, in bytes, whatever d is; LOG_ODDS takes half a MiB more."""
_COPIES = 8
"""Words held at a time for each (position, group), and for each (block, candidate): those of the functions below and
their temporaries, counted generously.
"""
_PART = 1 << 20  # positions looked at for changes at a time
_FIXED_PLANES = 8  # of 16: after that 64 / 256 of the words have an open lane, and only those go on


class _Tables(NamedTuple):
    """Tables of `relative_kernels` on the device, int64."""

    log_odds: torch.Tensor
    exp2: torch.Tensor


def choose_on(
    device: torch.device | str,
    key: int,
    choice_key: int,
    theta: NDArray[np.uint16],
    local: NDArray[np.uint16],
    starts: NDArray[np.uint32],
    bits: int,
    device_bytes: int = DEVICE_BYTES,
) -> NDArray[np.uint16]:
    """Choose the candidate of every block.

    Parameters
    ----------
    device
        Where to work, for instance ``"cuda"``.
    key, choice_key
        Streams of the candidates and of the choice among them, 0 to 2^64 - 1.
    theta, local
        uint16 ``(d,)``: probabilities on the 16-bit grid.
    starts
        uint32 ``(blocks + 1,)``: where blocks start, and d at the end.
    bits
        log2 of the number of candidates, 6 to 14.
    device_bytes
        Bound on what is taken on the device; at least one block and one position are handled at a time.

    Returns
    -------
    The indices, uint16 ``(blocks,)``.

    Raises
    ------
    RuntimeError
        Torch's own, if the device is missing or has no memory left.
    """
    groups, blocks = 1 << (bits - 6), len(starts) - 1
    share = device_bytes // (2 * 8 * _COPIES * groups)  # half for positions, half for weights; words of 8 bytes
    rows, size = max(share // 64, 1), max(share, 1)
    tables = _Tables(torch.from_numpy(LOG_ODDS).to(device), torch.from_numpy(EXP2).to(device))
    indices = np.empty(blocks, dtype=np.uint16)
    for first in range(0, blocks, rows):
        part = starts[first : first + rows + 1]
        count = len(part) - 1
        weights = torch.zeros((64, count, groups), dtype=torch.int64, device=device)
        expected = torch.zeros(count, dtype=torch.int64, device=device)
        for begin in range(int(part[0]), int(part[-1]), _PART):
            end = min(begin + _PART, int(part[-1]))
            changed = begin + np.flatnonzero(theta[begin:end] != local[begin:end])
            for at in range(0, len(changed), size):
                where = changed[at : at + size]
                block = np.searchsorted(part, where, side="right") - 1
                i, b, q, p = (
                    torch.from_numpy(values.astype(np.int64, copy=False)).to(device)
                    for values in (where, block, theta[where], local[where])
                )
                _add_weights(weights, expected, key, i, b, q, p, tables)
        random = words_torch(choice_key, first, count, device)
        # a candidate's number is 64 times its group plus its lane
        by_number = weights.permute(1, 2, 0).reshape(count, 64 * groups)
        del weights
        picked = _pick(by_number, (expected + 128) >> 8, random, tables.exp2)
        indices[first : first + count] = picked.cpu().numpy().astype(np.uint16)
    return indices


def _add_weights(
    weights: torch.Tensor,
    expected: torch.Tensor,
    key: int,
    i: torch.Tensor,
    block: torch.Tensor,
    q: torch.Tensor,
    p: torch.Tensor,
    tables: _Tables,
) -> None:
    """Add some positions to the weights ``(64, blocks, groups)`` of their blocks, and to what Bern(p) has on average.

    ``i``, ``block``, ``q`` and ``p`` are int64 ``(n,)``.
    """
    gain = tables.log_odds[p] - tables.log_odds[q]
    common_one = q >= ONE // 2  # then zeros are rarer
    gain = torch.where(common_one, -gain, gain)
    chance = torch.where(common_one, ONE - p, p)
    expected.index_add_(0, block, (gain * chance + 128) >> 8)
    rare = _candidates(key, i, q, weights.shape[2]).bitwise_xor_(-common_one.to(torch.int64)[:, None])
    gain = gain[:, None]
    added = torch.empty_like(rare)
    for lane in range(64):
        torch.bitwise_right_shift(rare, lane, out=added)
        weights[lane].index_add_(0, block, added.bitwise_and_(1).mul_(gain))


def _candidates(key: int, i: torch.Tensor, q: torch.Tensor, groups: int) -> torch.Tensor:
    """Bits of all candidates at the positions: int64 ``(n, groups)``, 64 lanes a word."""
    base = i[:, None] * signed(16 * groups * int(GOLDEN) % 2**64) + signed(key)
    # (g + 1) G for the groups; torch multiplies modulo 2^64 too
    steps = torch.arange(1, groups + 1, dtype=torch.int64, device=i.device)[None, :] * signed(int(GOLDEN))
    ones = torch.zeros((len(i), groups), dtype=torch.int64, device=i.device)
    open_ = torch.full_like(ones, -1)
    word, scratch = torch.empty_like(ones), torch.empty_like(ones)
    for plane in range(_FIXED_PLANES):
        torch.add(base + _plane_offset(plane, groups), steps, out=word)
        open_, word = _compare(mix_torch(word, scratch), ones, open_, q[:, None], plane)
    row, group = open_.nonzero(as_tuple=True)
    below, left = ones[row, group], open_[row, group]
    first = base[row, 0] + steps[0, group]
    for plane in range(_FIXED_PLANES, 16):
        word = first + _plane_offset(plane, groups)
        left, word = _compare(mix_torch(word, torch.empty_like(word)), below, left, q[row], plane)
    ones[row, group] = below
    return ones


def _compare(
    word: torch.Tensor, ones: torch.Tensor, open_: torch.Tensor, q: torch.Tensor, plane: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compare one bit plane of the uniforms with theta's bit: lanes that are below get their one.

    Returns
    -------
    The lanes still open, and the tensor that is free now; both overwrite ``word`` and ``open_``.
    """
    one = -((q >> (15 - plane)) & 1)
    word.bitwise_xor_(~one).bitwise_and_(open_)  # open lanes whose bit equals theta's
    ones.bitwise_or_(open_.bitwise_xor_(word).bitwise_and_(one))
    return word, open_


def _plane_offset(plane: int, groups: int) -> int:
    return signed(plane * groups * int(GOLDEN) % 2**64)


def _pick(weights: torch.Tensor, expected: torch.Tensor, random: torch.Tensor, exp2: torch.Tensor) -> torch.Tensor:
    """`relative_kernels._pick` for all rows of weights ``(blocks, candidates)`` at once; weights is overwritten.

    All arguments and the indices are int64; ``expected`` and ``random`` are ``(blocks,)``.
    """
    best = weights.amax(1)
    drops = weights.neg_().add_(best[:, None]).clamp_(max=MAX_DROP)
    wanted = (best - expected).clamp_(-1, MAX_DROP)

    def masses(tilt: torch.Tensor) -> torch.Tensor:
        drop = (drops * tilt[:, None]).bitwise_right_shift_(11)
        # a table entry is below 2^25: from 25 on nothing is left of it
        return exp2[drop & 1023].bitwise_right_shift_(drop.bitwise_right_shift_(10).clamp_(max=25))

    low = torch.zeros_like(wanted)
    high = torch.full_like(wanted, TILT_STEPS)
    for _ in range(TILT_STEPS.bit_length()):  # enough for all rows: no row has to be waited for
        tilt = (low + high) >> 1
        mass = masses(tilt)
        enough = mass.sum(1).mul_(wanted) >= mass.mul_(drops).sum(1)
        searching = low < high
        high = torch.where(searching & enough, tilt, high)
        low = torch.where(searching & ~enough, tilt + 1, low)
    sums = masses(low).cumsum_(1)
    threshold = (((random >> 40) & 0xFFFFFF) * sums[:, -1]) >> 24
    return torch.searchsorted(sums, threshold[:, None], right=True)[:, 0]
