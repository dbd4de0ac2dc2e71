"""Bytes, mistakes and speed of the codecs on one synthetic round, and what general compressors make of the delta."""

from __future__ import annotations

import importlib
import math
import shutil
import subprocess
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.codecs import Codec, SharedState, get_codec
from common.codecs.base import entropy_bits
from common.codecs.relative import PRESETS
from common.selection import bernoulli_kl
from common.theta import ONE, quantise
from deltamask_server.tools.codec_comparison.compare import compare
from deltamask_server.tools.codec_comparison.synthetic import realistic_round

__all__ = ["codec_figures", "compressor_figures", "relative_figures"]

_ZSTD_LEVEL = 19
_FIT = 1 << 19
"""Positions on which the width of a step is fitted."""


def codec_figures(d: int, codecs: dict[str, Codec], repeats: int = 3) -> dict[str, Any]:
    """`compare` for each of the codecs (by label) on one realistic round."""
    shared, local = realistic_round(d)
    return {label: _compared(codec, local, shared, repeats, label) for label, codec in codecs.items()}


def relative_figures(d: int, kl: float, presets: Iterable[str] = PRESETS, repeats: int = 1) -> dict[str, Any]:
    """`compare` for presets of ``relative``, on a round of ``kl`` bits a position."""
    shared, local = _round_of_divergence(d, kl)
    return {name: _compared(get_codec("relative", preset=name), local, shared, repeats, name) for name in presets}


def compressor_figures(d: int) -> dict[str, Any]:
    """The delta as packed bits through general compressors, in bits a position, and the entropy of its flips."""
    shared, local = realistic_round(d)
    flips = shared.local_mask(local) != shared.mask()
    packed = np.packbits(flips).tobytes()
    zstd = _zstd(packed)
    return {
        "flips": float(flips.mean()),
        "entropy, d H(flips / d)": entropy_bits(int(flips.sum()), d) / d,
        "zlib -9": 8 * len(zlib.compress(packed, 9)) / d,
        f"zstd -{_ZSTD_LEVEL}": zstd if isinstance(zstd, str) else 8 * zstd / d,
    }


def _compared(
    codec: Codec, local: NDArray[np.float32], shared: SharedState, repeats: int, label: str
) -> dict[str, Any]:
    figures = compare(codec, local, shared, repeats, label)
    print(f"  d = {shared.d:,}  {label:16} {figures.bpp:.5f} bpp", flush=True)
    return figures.as_dict()


def _zstd(data: bytes) -> int | str:
    """Bytes after zstd, from whichever of its three homes this machine has; or why there are none."""
    for module in ("compression.zstd", "zstandard"):
        try:
            return len(importlib.import_module(module).compress(data, _ZSTD_LEVEL))
        except ImportError:
            continue
    binary = shutil.which("zstd")
    if binary is None:
        return "not measured: neither a module nor the command zstd on this machine"
    command = [binary, f"-{_ZSTD_LEVEL}", "--quiet", "--stdout"]
    return len(subprocess.run(command, input=data, capture_output=True, check=True).stdout)


def _round_of_divergence(d: int, kl: float) -> tuple[SharedState, NDArray[np.float32]]:
    """Half of theta as it started, half a mean of ten masks; steps of the log-odds with a Laplace tail, as wide as it
    takes for ``kl`` bits a position.
    """
    rng = np.random.default_rng(2)
    started = rng.random(d) < 0.5
    theta = quantise(np.where(started, 0.95, np.clip(rng.binomial(10, 0.95, d) / 10, 0.01, 0.99)))
    noise = rng.laplace(size=d).astype(np.float32)
    p = (theta / ONE).astype(np.float32)
    log_odds = np.log(p / (1 - p))

    def local(width: float, stop: int) -> NDArray[np.float32]:
        moved = 1 / (1 + np.exp(-log_odds[:stop] - np.float32(width) * noise[:stop]))
        return moved.astype(np.float32)

    width, stop = 0.1, min(d, _FIT)
    for _ in range(8):  # KL goes about with the square of the width
        reached = bernoulli_kl(quantise(local(width, stop)) / ONE, theta[:stop] / ONE).mean()
        width *= math.sqrt(kl / float(reached))
    return SharedState(theta, seed=7, round=2, slot=1), local(width, d)
