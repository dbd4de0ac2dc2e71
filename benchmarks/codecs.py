"""Measure filters, codecs and downlink on this machine, peers side by side in one run: `make bench`, about five minutes
on two idle cores.

Prints the targets with their figures, writes all figures to benchmarks/results/codecs.json and draws
docs/images/codec-sizes.png. Machines differ and are noisy: read the ratios, not the seconds.
"""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from benchmarks.downlinks import downlink_figures
from benchmarks.filters import filter_figures
from benchmarks.memory import memory_figures
from benchmarks.sizes import codec_figures, compressor_figures, relative_figures
from benchmarks.sizes_plot import plot_sizes
from benchmarks.targets import print_targets, targets
from common.codecs import available_codecs, get_codec
from deltamask_server.tools.codec_comparison.compare import variants

SMALL, LARGE = 2_211_840, 35_389_440
"""ViT-Tiny's and ViT-B/32's last five blocks."""
DENSITY = 0.01
KL = 0.003
"""Bits a position of a late round."""
DOWNLINK = 500_000
MAIN = ("fuse8", "exact", "relative")
RESULT = Path(__file__).parent / "results" / "codecs.json"


def measure() -> dict[str, Any]:
    """Every figure, by section."""
    begun, cores = time.perf_counter(), len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    figures = {
        "machine": {"processor": platform.machine(), "cores": cores, "load at the start": round(load, 1)},
        "filter": filter_figures(LARGE, DENSITY),
        "delta through compressors": {f"{d:,}": compressor_figures(d) for d in (SMALL, LARGE)},
        "codecs": {
            f"{SMALL:,}": codec_figures(SMALL, variants()),
            f"{LARGE:,}": codec_figures(LARGE, {name: get_codec(name) for name in MAIN}, repeats=1),
        },
        f"relative at {KL} bits of KL": {f"{d:,}": relative_figures(d, KL) for d in (SMALL, LARGE)},
        "memory beyond the inputs": memory_figures(LARGE, available_codecs()),
        "downlink": downlink_figures(DOWNLINK),
    }
    figures["machine"]["seconds in all"] = round(time.perf_counter() - begun)
    return figures


def main() -> None:
    """Measure, write, draw, print."""
    figures = measure()
    found = targets(figures)
    figures["targets"] = [target.as_dict() for target in found]
    RESULT.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    picture = plot_sizes(figures["codecs"][f"{SMALL:,}"], figures["delta through compressors"][f"{SMALL:,}"], SMALL)
    print_targets(found)
    print(f"{figures['machine']['seconds in all']} s; wrote {RESULT} and {picture}")


if __name__ == "__main__":
    main()
