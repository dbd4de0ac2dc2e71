"""What a round's own arithmetic costs beside training, before and after it was done once instead of again and again.

    python -m benchmarks.hot_paths            # prints JSON; `--out FILE` keeps it

Both ways run in one process, alternating, and the shortest time of each counts; the old ways stand here as reference.
``before`` of more than ten slots is that of one slot times their number. Memory is what NumPy allocates beside inputs
and outputs at the most (tracemalloc).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.codecs.shared_masks import SharedMasks
from common.theta import Version, quantise
from common.uniforms import stream_key, uniforms
from deltamask_server.fixed_point import FixedPointMean

SIZES = (2_211_840, 35_000_000)
CLIENTS = (10, 100)
_SEED, _ROUND = 5, 3


def digests_before(theta: NDArray[np.uint16], replies: int) -> None:
    """Theta's digest for every reply, each of a copy."""
    for _ in range(replies):
        hashlib.blake2b(theta.astype("<u2", copy=False).tobytes(), digest_size=8).digest()


def digests_after(theta: NDArray[np.uint16], replies: int) -> None:
    """Once a version."""
    version = Version(theta)
    for _ in range(replies):
        assert version.digest


def masks_before(theta: NDArray[np.uint16], slots: Sequence[int]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Ones among the masks of all slots, and the distance of the nearest uniform: stream by stream, with NumPy."""
    ones, nearest = np.zeros(len(theta), np.uint16), np.full(len(theta), 65_535, np.uint16)
    for slot in slots:
        u = uniforms(stream_key(_SEED, _ROUND, slot), len(theta))
        mask = u < theta
        ones += mask
        np.minimum(nearest, np.where(mask, theta - u, u - theta), out=nearest)
    return ones, nearest


def masks_after(theta: NDArray[np.uint16], slots: Sequence[int]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """In one pass over the positions."""
    drawn = SharedMasks.draw(theta, [stream_key(_SEED, _ROUND, slot) for slot in slots])
    return drawn.ones, drawn.nearest


def sum_before(total: NDArray[np.int64], values: NDArray[np.float32], examples: int) -> None:
    """A payload's float32 values into a fixed-point sum."""
    total[...] += np.rint(values.astype(np.float64) * 2**26).astype(np.int64) * examples


def measure(before: Callable[[], Any], after: Callable[[], Any], times: int) -> dict[str, Any]:
    """Shortest seconds of both, taking turns, and what they allocate."""
    seconds: tuple[list[float], list[float]] = ([], [])
    after()  # what is compiled is compiled now
    for _ in range(times):
        for way, kept in zip((before, after), seconds, strict=True):
            begun = time.perf_counter()
            way()
            kept.append(time.perf_counter() - begun)
    peaks = []
    for way in (before, after):
        tracemalloc.start()
        way()
        peaks.append(round(tracemalloc.get_traced_memory()[1] / 2**20, 1))
        tracemalloc.stop()
    return {
        "before, ms": round(1000 * min(seconds[0]), 2),
        "after, ms": round(1000 * min(seconds[1]), 2),
        "before, MiB": peaks[0],
        "after, MiB": peaks[1],
    }


def figures(d: int, times: int) -> list[dict[str, Any]]:
    """Rows of one size."""
    rng = np.random.default_rng(0)
    theta = quantise(np.clip(rng.binomial(10, 0.95, d) / 10, 0.01, 0.99))
    rows: list[dict[str, Any]] = []

    def row(what: str, slots: int, found: dict[str, Any]) -> None:
        found["times faster"] = round(found["before, ms"] / max(found["after, ms"], 0.001), 1)
        rows.append({"what": what, "d": d, "K": slots, **found})
        print(json.dumps(rows[-1]), flush=True)

    for clients in CLIENTS:
        slots = range(clients)
        found = measure(lambda n=clients: digests_before(theta, n), lambda n=clients: digests_after(theta, n), times)
        row("digest of theta, K replies", clients, found)
        few = slots if clients <= 10 else range(1)
        ones, nearest = masks_after(theta, few)
        assert all(np.array_equal(a, b) for a, b in zip(masks_before(theta, few), (ones, nearest), strict=True))
        found = measure(lambda s=few: masks_before(theta, s), lambda s=slots: masks_after(theta, s), times)
        found["before, ms"] = round(found["before, ms"] * clients / len(few), 2)
        row("masks of K slots counted, on the server and on each receiving client", clients, found)
    values = rng.standard_normal(d).astype(np.float32)
    total, mean = np.zeros(d, np.int64), FixedPointMean(d)
    found = measure(lambda: sum_before(total, values, 3), lambda: mean.add(values, 3), times)
    row("a payload of d float32 values into the sum of FedAvg", 1, found)
    return rows


def main() -> None:
    """Measure all sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--times", type=int, default=3)
    args = parser.parse_args()
    rows = [row for d in SIZES for row in figures(d, args.times)]
    result = {"command": "python -m benchmarks.hot_paths", "cores": os.cpu_count(), "rows": rows}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
