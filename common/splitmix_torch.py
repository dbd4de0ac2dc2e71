"""SplitMix64 as in `common.splitmix`, on a torch device: torch has no full support for unsigned integers, and two's
complement multiplies and adds alike.
"""

from __future__ import annotations

import torch

from common.splitmix import GOLDEN, MIX_1, MIX_2

__all__ = ["mix_torch", "signed", "words_torch"]


def signed(word: int) -> int:
    """Read an unsigned 64-bit word as two's complement, as torch needs it."""
    return word - (1 << 64) if word >= 1 << 63 else word


_STEPS = ((30, signed(int(MIX_1))), (27, signed(int(MIX_2))), (31, 1))
"""Shift, then factor."""


def mix_torch(word: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """SplitMix64's output function in place.

    Parameters
    ----------
    word, scratch
        int64 tensors of one shape; both are overwritten.

    Returns
    -------
    ``word``.
    """
    for shift, factor in _STEPS:
        # int64 shifts keep the sign: mask it away to get the logical shift of an unsigned word
        torch.bitwise_right_shift(word, shift, out=scratch)
        word.bitwise_xor_(scratch.bitwise_and_((1 << (64 - shift)) - 1))
        if factor != 1:
            word.mul_(factor)
    return word


def words_torch(key: int, first: int, count: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """The words of `common.splitmix.words`, as an int64 tensor ``(count,)`` on any device."""
    counter = torch.arange(first + 1, first + count + 1, dtype=torch.int64, device=device)
    counter.mul_(signed(int(GOLDEN))).add_(signed(key))
    return mix_torch(counter, torch.empty_like(counter))
