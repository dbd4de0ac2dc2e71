"""Peak memory of encoding and decoding beyond their inputs: each in a process of its own, since a peak never falls.

    python -m benchmarks.memory encode CODEC FOLDER     # what `memory_figures` starts; prints bytes

What counts is the growth of the process's largest resident size while the codec works. Its inputs (theta, theta_local
or the payload) are in memory before, and a small update has gone through the codec: compiled code is not counted, the
shared uniforms are. The size is VmHWM of /proc/self/status, Linux only: getrusage's ru_maxrss starts at the largest
size of the process that started this one, which hides everything.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from common.codecs import SharedState, get_codec
from deltamask_server.tools.codec_comparison.synthetic import realistic_round

__all__ = ["memory_figures"]

_WARM_UP = 20_000


def memory_figures(d: int, codecs: Iterable[str]) -> dict[str, dict[str, float]]:
    """MiB of encoding and of decoding on a realistic round of ``d`` positions, by codec."""
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        shared, local = realistic_round(d)
        np.save(Path(folder) / "theta.npy", shared.theta)
        np.save(Path(folder) / "local.npy", local)
        del shared, local
        for codec in codecs:
            figures[codec] = {f"{what}, MiB": _in_a_process(what, codec, folder) for what in ("encode", "decode")}
            print(f"  memory  {codec:10} {figures[codec]}", flush=True)
    return figures


def _in_a_process(what: str, codec: str, folder: str) -> float:
    command = [sys.executable, "-m", "benchmarks.memory", what, codec, folder]
    done = subprocess.run(command, capture_output=True, check=True, text=True, cwd=Path(__file__).parents[1])
    return round(int(done.stdout) / 2**20, 1)


def _measure(what: str, name: str, folder: Path) -> int:
    """Bytes that the process grew by; encoding leaves the payload in the folder for decoding."""
    codec, (small, small_local) = get_codec(name), realistic_round(_WARM_UP)
    codec.decode(codec.encode(small_local, small), small)
    theta, path = np.load(folder / "theta.npy"), folder / f"{name}.payload"
    shared = SharedState(theta, small.seed, small.round, small.slot)
    if what == "encode":
        local = np.load(folder / "local.npy")
        before = _largest()
        path.write_bytes(codec.encode(local, shared))
    else:
        payload = path.read_bytes()
        before = _largest()
        codec.decode(payload, shared)
    return _largest() - before


def _largest() -> int:
    """The largest resident size so far, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    print(_measure(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
