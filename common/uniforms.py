"""Shared randomness: the same 16-bit uniforms on every machine, from NumPy or torch, on CPU or GPU.

SplitMix64 (Steele, Lea, Flood 2014) in counter mode: output word ``i`` of stream ``key`` is ``mix(key + (i + 1) *
GOLDEN)`` and holds the uniforms of positions ``4 i .. 4 i + 3``, lowest bits first. Only 64-bit integer arithmetic
modulo 2^64, so no library, thread count or processor changes a bit. The stream key is a digest of (run seed, round,
client), so that different clients draw different masks (else averaging would not reduce the sampling noise) and both
ends of a link draw the same.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

__all__ = ["SERVER_CLIENT", "stream_key", "stream_seed", "uniforms", "uniforms_torch"]

SERVER_CLIENT = 2**32 - 1
"""The client number under which the server draws the mask that it evaluates."""

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_LANES = 4


def stream_key(seed: int, round: int, client: int, purpose: str = "mask") -> int:
    """Key of one stream of uniforms, in [0, 2^64).

    Parameters
    ----------
    seed
        Run seed, 0 to 2^63 - 1.
    round, client
        Round from 0 on; client id, or slot of the round, from 0 on.
    purpose
        Separates streams of one round and client that must be independent.
    """
    text = f"deltamask/{purpose}/{seed}/{round}/{client}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def stream_seed(seed: int, round: int, client: int, purpose: str) -> int:
    """A 63-bit seed for a library generator (``torch.Generator``, ``numpy.random.default_rng``), independent per
    purpose.
    """
    return stream_key(seed, round, client, purpose) >> 1


def uniforms(key: int, count: int) -> NDArray[np.uint16]:
    """Draw the first ``count`` uniforms of a stream.

    Returns
    -------
    uint16 array of shape ``(count,)``, uniform on 0..65535: ``u < theta`` is true with probability ``theta / 65536``
    exactly.
    """
    words = np.arange(1, -(-count // _LANES) + 1, dtype=np.uint64)
    words *= np.uint64(_GOLDEN)
    words += np.uint64(key)
    words ^= words >> np.uint64(30)
    words *= np.uint64(_MIX_1)
    words ^= words >> np.uint64(27)
    words *= np.uint64(_MIX_2)
    words ^= words >> np.uint64(31)
    return words.astype("<u8", copy=False).view("<u2")[:count].astype(np.uint16, copy=False)


def uniforms_torch(key: int, count: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Draw the same uniforms as `uniforms` with torch, on any device.

    Returns
    -------
    int32 tensor of shape ``(count,)``, values 0..65535 (torch has no full support for unsigned 16-bit integers).
    """
    import torch  # here, since it takes seconds to import, and codecs need NumPy only

    def shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
        # int64 shifts keep the sign: mask it away to get the logical shift of an unsigned word.
        return (x >> bits) & ((1 << (64 - bits)) - 1)

    words = torch.arange(1, -(-count // _LANES) + 1, dtype=torch.int64, device=device)
    words = words * _signed(_GOLDEN) + _signed(key)
    words = (words ^ shift_right(words, 30)) * _signed(_MIX_1)
    words = (words ^ shift_right(words, 27)) * _signed(_MIX_2)
    words = words ^ shift_right(words, 31)
    lanes = [(words >> (16 * lane)) & 0xFFFF for lane in range(_LANES)]
    return torch.stack(lanes, dim=1).flatten()[:count].to(torch.int32)


def _signed(word: int) -> int:
    """Read an unsigned 64-bit word as two's complement, as torch needs it."""
    return word - (1 << 64) if word >= 1 << 63 else word
