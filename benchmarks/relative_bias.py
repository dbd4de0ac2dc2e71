"""Where the mean of decoded ``relative`` payloads misses theta_local: `python -m benchmarks.relative_bias`.

The aim is that the mean over 2,000 seeds lies within 3 standard errors of theta_local + 0.005, at each position. Prints
for each preset and tail of the steps how many positions lie outside, how many would by chance if every bit were drawn
from Bern(theta_local) itself, and by how much the worst one misses; writes benchmarks/results/relative-bias.json. About
ten minutes.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.codecs import Codec, SharedState, get_codec
from common.codecs.relative import PRESETS
from common.codecs.relative_kernels import LOG_ODDS
from common.selection import bernoulli_kl
from common.theta import ONE, quantise
from common.wire import HEADER_BYTES

SEGMENTS = (5000, 2000, 6000, 7000)
KL = 0.003
RUNS = 2000
SLACK = 0.005
RESULT = Path(__file__).parent / "results" / "relative-bias.json"


def realistic(
    segments: tuple[int, ...], kl: float, seed: int = 0, tail: str = "laplace"
) -> tuple[SharedState, NDArray[np.float32]]:
    """Theta as means of ten masks mixed with the start value; steps of the log-odds with a width a layer and a tail
    (``normal``, ``laplace``, or ``t``: Student's with 4 degrees of freedom), scaled to ``kl`` bits a position.
    """
    rng = np.random.default_rng(seed)
    d = sum(segments)
    start = rng.random(d) < 0.5
    theta = quantise(np.where(start, 0.95, np.clip(rng.binomial(10, 0.95, d) / 10, 0.01, 0.99)))
    draw = {
        "normal": rng.standard_normal,
        "laplace": lambda d: rng.laplace(size=d),
        "t": lambda d: rng.standard_t(4, d),
    }
    noise = draw[tail](d) * np.repeat(np.exp(rng.normal(0, 0.5, len(segments))), segments)
    scores = LOG_ODDS[theta] * (math.log(2) / ONE)

    def local(width: float) -> NDArray[np.float32]:
        return (1 / (1 + np.exp(-scores - width * noise))).astype(np.float32)

    width = 0.1
    for _ in range(8):
        width *= math.sqrt(kl / bernoulli_kl(quantise(local(width)) / ONE, theta / ONE).mean())
    return SharedState(theta, seed=7, round=2, slot=1, segments=segments), local(width)


def bias_figures(codec: Codec, shared: SharedState, local: NDArray[np.float32], runs: int = RUNS) -> dict[str, float]:
    """Decode as many seeds as ``runs`` says and hold the means against theta_local."""
    total, size, front = np.zeros(shared.d), 0, HEADER_BYTES + 2 + len(shared.segments or ())
    for seed in range(runs):
        here = SharedState(shared.theta, seed, 1, 0, shared.segments)
        payload = codec.encode(local, here)
        total += codec.decode(payload, here)
        size += len(payload) - front
    p, q = quantise(local) / ONE, shared.theta / ONE

    def beyond(mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far each mean lies outside."""
        errors = np.sqrt(np.maximum(p * (1 - p), mean * (1 - mean)) / runs)
        return np.asarray(np.maximum(np.abs(mean - p) - 3 * errors - SLACK, 0))

    mean = total / runs
    rng = np.random.default_rng(0)
    by_chance = [(beyond(rng.binomial(runs, p) / runs) > 0).mean() for _ in range(50)]
    return {
        "positions": shared.d,
        "outside": int((beyond(mean) > 0).sum()),
        "outside by chance": float(np.mean(by_chance)) * shared.d,
        "worst, beyond what is allowed": float(beyond(mean).max()),
        "worst distance from theta_local": float(np.abs(mean - p).max()),
        "share of the step kept": float(((mean - q) @ (p - q)) / ((p - q) @ (p - q))),
        "bits of all indices, times the KL": 8 * size / runs / float(bernoulli_kl(p, q).sum()),
    }


def main() -> None:
    """Measure, print, write."""
    figures: dict[str, dict[str, float]] = {}
    for preset in PRESETS:
        for tail in ("normal", "laplace", "t"):
            name = f"{preset}, {tail} steps"
            figures[name] = bias_figures(get_codec("relative", preset=preset), *realistic(SEGMENTS, KL, 5, tail))
            print(f"\n{name}")
            for key, value in figures[name].items():
                print(f"  {key:34} {value:12,.4f}", flush=True)
    result = {"KL bits a position": KL, "seeds": RUNS, "figures": figures}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\nwrote {RESULT}")


if __name__ == "__main__":
    main()
