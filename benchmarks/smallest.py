"""What the smallest payloads are made of: header, side information and code, by codec and gain.

    python -m benchmarks.smallest        # -> benchmarks/results/smallest.json, and a Markdown table

One update of a network with ViT-Tiny's last five blocks, twenty tensors, heavy tails: a larger gain makes a payload
shorter, as a small budget does in a run. The information is the entropy of the flips given what the receiver knows for
`exact`, eight bits a flip for `fuse8`, and the KL divergence for `relative`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.codecs import SharedState, get_codec
from common.gain import gain_code, spread
from common.theta import ONE, quantise
from common.wire import HEADER_BYTES, read_header

RESULT = Path(__file__).parent / "results" / "smallest.json"
_WIDTH = 192
_SEGMENTS = (3 * _WIDTH**2, _WIDTH**2, 4 * _WIDTH**2, 4 * _WIDTH**2) * 5
"""Attention's two matrices and the MLP's two, five blocks of them."""
_SIDE = ("layout", "layout and reach", "bits and target", "scales")
"""Parts of a body that do not grow with the update (`common.codecs.Codec.describe`)."""
_GAINS = {"exact": (8.0, 16.0, 32.0, 64.0), "fuse8": (8.0, 16.0, 32.0, 64.0), "relative": (0.25, 0.5, 1.0, 2.0)}


def measure() -> list[dict[str, Any]]:
    """Bytes by part, for each codec and gain."""
    shared, local = _update()
    return [_split(name, gain, shared, local) for name, gains in _GAINS.items() for gain in gains]


def _update() -> tuple[SharedState, NDArray[np.float32]]:
    rng = np.random.default_rng(3)
    d = sum(_SEGMENTS)
    theta = quantise(np.clip(0.95 + 0.02 * rng.standard_normal(d), 0.02, 0.98))
    p = theta / ONE
    moved = 1 / (1 + np.exp(-np.log(p / (1 - p)) - 0.01 * rng.standard_t(2, d)))
    return SharedState(theta, seed=7, round=2, slot=1, segments=_SEGMENTS), moved.astype(np.float32)


def _split(name: str, gain: float, shared: SharedState, local: NDArray[np.float32]) -> dict[str, Any]:
    codec = get_codec(name, gain=gain)
    payload = codec.encode(local, shared)
    header = read_header(payload)[0]
    parts = codec.describe(header.n, payload[HEADER_BYTES:]).parts
    side = sum(size for part, size in parts.items() if part in _SIDE)
    bound = codec.bound(spread(local, shared.theta, gain_code(gain)), shared)
    return {
        "codec": name,
        "gain": gain,
        codec.counts: header.n,
        "information, bits": round(bound.bits) if bound else None,
        "header": HEADER_BYTES,
        "side information": side,
        "code": len(payload) - HEADER_BYTES - side,
        "bytes": len(payload),
        "bpp": round(8 * len(payload) / shared.d, 6),
    }


def table(figures: list[dict[str, Any]]) -> str:
    """As Markdown."""
    names = ("codec", "gain", "information, bits", "header", "side information", "code", "bytes", "bpp")
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    lines += [f"| {' | '.join(f'{row[name]}' for name in names)} |" for row in figures]
    return "\n".join(lines)


def main() -> None:
    """Measure, write, print."""
    figures = measure()
    RESULT.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(table(figures))


if __name__ == "__main__":
    main()
