"""Shared randomness: the same 16-bit uniforms on every machine, from NumPy or torch, on CPU or GPU.

Output word ``i`` of a stream of SplitMix64 (`common.splitmix`) holds the uniforms of positions ``4 i .. 4 i + 3``,
lowest bits first. The stream key is a digest of (run seed, round, client), so that different clients draw different
masks (else averaging would not reduce the sampling noise) and both ends of a link draw the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.digest import digest8
from common.splitmix import words

if TYPE_CHECKING:
    import torch

__all__ = ["LANES", "SERVER_CLIENT", "stream_key", "stream_seed", "uniforms", "uniforms_torch"]

SERVER_CLIENT = 2**32 - 1
"""The client number under which the server draws the mask that it evaluates."""

LANES = 4
"""Uniforms of one word."""


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
    return int.from_bytes(digest8(text.encode()), "little")


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
    drawn = words(key, 0, -(-count // LANES))
    return drawn.astype("<u8", copy=False).view("<u2")[:count].astype(np.uint16, copy=False)


def uniforms_torch(key: int, count: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Draw the same uniforms as `uniforms` with torch, on any device.

    Returns
    -------
    int32 tensor of shape ``(count,)``, values 0..65535 (torch has no full support for unsigned 16-bit integers).
    """
    # here, since torch takes seconds to import, and codecs need NumPy only
    import torch

    from common.splitmix_torch import words_torch

    drawn = words_torch(key, 0, -(-count // LANES), device)
    lanes = [(drawn >> (16 * lane)) & 0xFFFF for lane in range(LANES)]
    return torch.stack(lanes, dim=1).flatten()[:count].to(torch.int32)
