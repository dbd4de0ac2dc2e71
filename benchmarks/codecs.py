"""Measure the codecs on this machine, peers side by side in one run: `make bench`.

Prints a table and writes benchmarks/results/codecs.json. Machines differ and are noisy: read the ratios, not the
seconds.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pyfusefilter._xorfilter import ffi, lib

from common.codecs import available_codecs, get_codec
from common.codecs.binary_fuse import build_filter
from common.codecs.png import pack_png
from common.codecs.synthetic import realistic_round

D = 35_389_440
DENSITY = 0.01
RESULT = Path(__file__).parent / "results" / "codecs.json"


def best_of(times: int, run: Callable[[], Any]) -> float:
    """Shortest wall time of several runs, in seconds."""
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def filter_figures() -> dict[str, float]:
    """Build and membership of an 8-bit filter at the size of ViT-B/32's last five blocks, against the compiled core."""
    keys = np.sort(np.random.default_rng(0).choice(D, int(D * DENSITY), replace=False)).astype(np.uint64)
    fuse = build_filter(keys, 8)
    fuse.contains_range(1000)  # compiled before the clock starts

    def core_build() -> None:
        core = ffi.gc(ffi.new("binary_fuse8_t *"), lib.binary_fuse8_free)
        lib.binary_fuse8_allocate(len(keys), core)
        lib.binary_fuse8_populate(ffi.from_buffer("uint64_t[]", keys), len(keys), core)

    core = ffi.new("binary_fuse8_t *")
    lib.binary_fuse8_allocate(len(keys), core)
    lib.binary_fuse8_populate(ffi.from_buffer("uint64_t[]", keys), len(keys), core)
    sample, contain = range(500_000), lib.binary_fuse8_contain
    ours = D / best_of(3, lambda: fuse.contains_range(D))
    one_by_one = len(sample) / best_of(3, lambda: [contain(key, core) for key in sample])
    lib.binary_fuse8_free(core)
    return {
        "keys": len(keys),
        "bits a key, fingerprints": 8 * len(fuse.fingerprints) / len(keys),
        "bits a key, PNG": 8 * len(pack_png(fuse.fingerprints)) / len(keys),
        "build, times the core's own": best_of(5, lambda: build_filter(keys, 8)) / best_of(5, core_build),
        "membership, million positions a second": ours / 1e6,
        "membership, times the core key by key": ours / one_by_one,
    }


def codec_figures(d: int) -> dict[str, dict[str, float]]:
    """Size, mistakes and speed of every codec on one realistic round."""
    shared, local = realistic_round(d)
    truth = shared.local_mask(local)
    figures = {}
    for name in available_codecs():
        codec = get_codec(name)
        payload = codec.encode(local, shared)
        mask = codec.decode(payload, shared)
        figures[name] = {
            "bpp": 8 * len(payload) / d,
            "flips": float((truth != shared.mask()).mean()),
            "differs from m_k (a sample of its own, for relative)": float((mask != truth).mean()),
            "encode, million positions a second": d / 1e6 / best_of(3, lambda c=codec: c.encode(local, shared)),
            "decode, million positions a second": d / 1e6 / best_of(3, lambda c=codec, p=payload: c.decode(p, shared)),
        }
    return figures


def main() -> None:
    """Measure, print, write."""
    figures = {
        "machine": platform.machine(),
        "filter": filter_figures(),
        "codecs at d = 2,211,840": codec_figures(2_211_840),
    }
    RESULT.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    for name, value in figures["filter"].items():
        print(f"{name:54} {value:14,.2f}")
    for codec, values in figures["codecs at d = 2,211,840"].items():
        print(f"\n{codec}")
        for name, value in values.items():
            print(f"  {name:52} {value:14,.5f}")
    print(f"\nwrote {RESULT}")


if __name__ == "__main__":
    main()
