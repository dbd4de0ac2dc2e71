"""Measure the tight geometry of binary fuse filters, seed by seed: `python -m benchmarks.geometry` (about a minute).

Prints the table of docs/wire-format.md, and writes it to benchmarks/results/geometry.json. Keys and seeds are random,
and the same in every run.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from common.codecs.fuse_build import MOST_ASIDE, peel, try_seed
from common.codecs.fuse_geometry import tight_geometry

SEEDS = {
    98_304: 300,
    105_000: 300,
    150_000: 300,
    196_607: 300,
    196_608: 200,
    350_000: 200,
    600_000: 100,
    1_000_000: 80,
    3_000_000: 20,
}
"""How many seeds are tried for each n."""
RESULT = Path(__file__).parent / "results" / "geometry.json"


def measure(n: int, seeds: int) -> dict[str, float]:
    """Success of peeling alone, success with keys aside, and how many of them."""
    rng = np.random.default_rng(n)
    length, count = tight_geometry(n)
    aside, solved = [], 0
    for trial in range(seeds):
        if trial % 20 == 0:
            keys = np.sort(rng.choice(20 * n, n, replace=False)).astype(np.uint64)
        seed = int(rng.integers(0, 2**63))
        aside.append(len(peel(keys, seed, length, count, 4 * MOST_ASIDE)[2]))
        solved += try_seed(keys, 8, seed, length, count, MOST_ASIDE) is not None
    return {
        "n": n,
        "seeds": seeds,
        "length": length,
        "slots a key": round((count + 2) * length / n, 4),
        "peeling alone": aside.count(0) / seeds,
        "with keys aside": solved / seeds,
        "aside, median": int(np.median(aside)),
        "aside, largest": max(aside),
    }


def main() -> None:
    """Measure, print, write."""
    rows = []
    for n, seeds in SEEDS.items():
        rows.append(measure(n, seeds))
        print(" | ".join(f"{name} {value:,}" for name, value in rows[-1].items()), flush=True)
    RESULT.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
