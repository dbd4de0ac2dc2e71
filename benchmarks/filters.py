"""Binary fuse filters at the size of ViT-B/32's last five blocks: building and asking, against pyfusefilter's compiled
core called key by key, and against a loop in C.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyfusefilter._xorfilter import ffi, lib

from benchmarks.timing import best_of, one_core
from common.codecs.binary_fuse import BinaryFuseFilter, build_filter
from common.codecs.png import pack_png

__all__ = ["filter_figures"]

_SOURCE = Path(__file__).with_name("contain.c")
_SAMPLE = 500_000
"""Keys asked one by one: enough for a rate."""


def filter_figures(d: int, density: float) -> dict[str, Any]:
    """Figures of a filter of ``density * d`` random positions."""
    keys = np.sort(np.random.default_rng(0).choice(d, int(d * density), replace=False)).astype(np.uint64)
    fuse = build_filter(keys, 8)
    fuse.contains_range(1000)  # compiled before the clock starts
    ours, cores = _in_turns(lambda: build_filter(keys, 8), lambda: _core(keys))
    core, contain = _core(keys), lib.binary_fuse8_contain
    one_by_one = _SAMPLE / best_of(3, lambda: [contain(key, core) for key in range(_SAMPLE)])
    together = d / best_of(5, lambda: fuse.contains_range(d))
    png = len(pack_png(fuse.fingerprints))
    return {
        "keys": len(keys),
        "bits a key, fingerprints": 8 * len(fuse.fingerprints) / len(keys),
        "bits a key, fingerprints of the core": 8 * core.ArrayLength / len(keys),
        "bits a key, PNG": 8 * png / len(keys),
        "PNG beyond its fingerprints, bytes": png - len(fuse.fingerprints),
        "build, ms": 1000 * ours,
        "build, times the core's own": ours / cores,
        "membership, million positions a second": together / 1e6,
        "membership, times the core key by key": together / one_by_one,
        **_against_c(fuse, d),
    }


def _in_turns(*runs: Callable[[], Any]) -> list[float]:
    """Shortest processor time of each, in seconds; in turns, so that all meet the same load of the machine."""
    rounds = [[best_of(1, run, time.process_time) for run in runs] for _ in range(7)]
    return [min(seconds) for seconds in zip(*rounds, strict=True)]


def _core(keys: NDArray[np.uint64]) -> Any:
    """The same keys, built by the core."""
    core = ffi.gc(ffi.new("binary_fuse8_t *"), lib.binary_fuse8_free)
    lib.binary_fuse8_allocate(len(keys), core)
    if not lib.binary_fuse8_populate(ffi.from_buffer("uint64_t[]", keys), len(keys), core):
        raise SystemExit(f"the core found no filter for {len(keys)} keys")
    return core


def _against_c(fuse: BinaryFuseFilter, d: int) -> dict[str, Any]:
    """Membership on one core, ours and a loop in C; without a compiler, the reason why there is no figure."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return {"C loop": "not measured: no cc, gcc or clang on this machine"}
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "contain.so"
        for flags in (["-O3", "-march=native"], ["-O3"]):
            command = [compiler, *flags, "-shared", "-fPIC", str(_SOURCE), "-o", str(library)]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                break
        else:
            return {"C loop": f"not measured: {Path(compiler).name} does not compile {_SOURCE.name}"}
        loop = ctypes.CDLL(str(library)).contains_range
    pointer, u32, u64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    loop.argtypes = [u64, u32, u32, pointer, u64, pointer]
    loop.restype = None
    out = np.empty(d, dtype=np.bool_)
    lengths = fuse.segment_length, fuse.segment_count * fuse.segment_length

    def in_c() -> None:
        loop(fuse.seed, *lengths, fuse.fingerprints.ctypes.data, d, out.ctypes.data)

    with one_core():
        ours, theirs = _in_turns(lambda: fuse.contains_range(d), in_c)
    if not np.array_equal(out, fuse.contains_range(d)):
        raise SystemExit("the loop in C gives other members")
    return {
        "C loop": f"{_SOURCE.name}, our own with the reference's arithmetic, {Path(compiler).name} {' '.join(flags)}",
        "membership on one core, million positions a second": d / ours / 1e6,
        "membership on one core, C loop": d / theirs / 1e6,
        "membership on one core, times the C loop": theirs / ours,
    }
