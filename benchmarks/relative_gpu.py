"""``relative`` with the candidates weighed on a GPU, beside the compiled loops on the CPU: `python -m
benchmarks.relative_gpu`.

Prints a table and writes benchmarks/results/relative-gpu.json; where there is no CUDA device, says so and writes
nothing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from common.codecs import SharedState, get_codec
from common.codecs.relative import PRESETS
from common.theta import probabilities

D = 2_211_840  # ViT-Ti/16's last five blocks
RESULT = Path(__file__).parent / "results" / "relative-gpu.json"


def one_round(d: int) -> tuple[SharedState, np.ndarray]:
    """Theta as a mean of ten masks, and a local step at a fifth of the positions."""
    rng = np.random.default_rng(1)
    theta = (np.clip(rng.binomial(10, 0.93, d) / 10, 0.01, 0.99) * 65536).astype(np.uint16)
    p = probabilities(theta).astype(np.float64)
    step = 0.8 * rng.standard_normal(d) * (rng.random(d) < 0.2)
    return SharedState(theta, 1, 1, 1), (1 / (1 + np.exp(-np.log(p / (1 - p)) - step))).astype(np.float32)


def gpu_figures(d: int = D) -> dict[str, dict[str, float | bool]] | str:
    """Encoding speed of each preset on both, one after the other in one process; or why there is none."""
    if not torch.cuda.is_available():
        return "no CUDA device: nothing measured"
    shared, local = one_round(d)
    figures: dict[str, dict[str, float | bool]] = {}
    for preset in PRESETS:
        cpu, gpu = (get_codec("relative", preset=preset, device=device) for device in (None, "cuda"))
        same = cpu.encode(local, shared) == gpu.encode(local, shared)  # and compiled, warm before the clock starts
        torch.cuda.reset_peak_memory_stats()
        seconds = [_best_of(3, lambda codec=codec: codec.encode(local, shared)) for codec in (cpu, gpu)]
        figures[preset] = {
            "same bytes": same,
            "compiled, million positions a second": d / 1e6 / seconds[0],
            "torch on CUDA, million positions a second": d / 1e6 / seconds[1],
            "times faster": seconds[0] / seconds[1],
            "MiB taken on the device": torch.cuda.max_memory_allocated() / 2**20,
        }
    return figures


def _best_of(times: int, run: Callable[[], object]) -> float:
    """Shortest wall time in seconds; an encoder's result is on the CPU, so nothing is still under way."""
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def main() -> None:
    """Measure, print, write."""
    figures = gpu_figures()
    if isinstance(figures, str):
        print(figures)
        return
    result = {"device": torch.cuda.get_device_name(), "CPU cores": os.cpu_count(), "d": D, "presets": figures}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for preset, values in figures.items():
        print(f"\n{preset}")
        for name, value in values.items():
            print(f"  {name:44} {value:14,.2f}")
    print(f"\nwrote {RESULT}")


if __name__ == "__main__":
    main()
