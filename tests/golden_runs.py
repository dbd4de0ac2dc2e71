"""Runs whose theta digests are kept: a change of structure must leave every one as it is.

    python -m tests.golden_runs          prints what this tree gives, as JSON
    python -m tests.golden_runs --write  replaces tests/golden/runs.json

Training rounds as the processor's vector units do, so the runs happen in a process that is told to use none of them;
where even that rounds otherwise (`fingerprint`), there is nothing to compare.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "golden" / "runs.json"

NODES = 3
SHARED: dict[str, str | int | float | bool] = {
    "train-limit": 90,
    "test-limit": 30,
    "local-epochs": 1,
    "head": "linear-probe",
    "head-epochs": 10,
    "masked-blocks": 1,
    "num-server-rounds": 3,
    "min-clients": NODES,
    "seed": 7,
    "validation-fraction": 0.0,
}
PAPER = {
    "score-optimiser": "adam",
    "local-masks": "sample",
    "aggregation": "beta",
    "calibration": 0.0,
    "vacant-distillation": 0.0,
}
KAPPA = PAPER | {"kappa": 0.8, "kappa-final": 0.4}
SAMPLES = {"codec": "relative", "downlink": "relay"}
FEDAVG = {"method": "fedavg", "calibration": 0.0}
NO_PROBE = {"head-epochs": 300}  # the default: other heads have no epochs
LENET = {"backbone": "lenet", "masked-blocks": 0, "head": "random", **NO_PROBE}
SIGNS = {"method": "hidenseek", "density": 0.2, "prune-passes": 5, **LENET}
RUNS: dict[str, dict[str, str | int | float | bool]] = {
    "default": {},
    "default-relayed": {"downlink": "relay"},
    "default-part": {"participation": 0.4, "min-clients": 1, "num-server-rounds": 5},
    "default-fuse8": {"codec": "fuse8"},
    "default-relative": SAMPLES,
    "default-bitmap": {"codec": "bitmap", "client-weights": "equal"},
    "sampled-penalised": {"local-masks": "sample", "kl-penalty": 0.1, "head": "ridge", **NO_PROBE, "target-bpp": 0.005},
    "default-pathological": {"partitioner": "pathological", "classes-per-client": 4},
    "fuse8": KAPPA | {"codec": "fuse8"},
    "fuse8-all": KAPPA | {"codec": "fuse8", "fuse-candidates": False},
    "fuse16": KAPPA | {"codec": "fuse16"},
    "fuse32": KAPPA | {"codec": "fuse32"},
    "exact": KAPPA | {"codec": "exact"},
    "relative": PAPER | {"codec": "relative"},
    "relative-relayed": PAPER | SAMPLES,
    "exact-relayed": KAPPA | {"codec": "exact", "downlink": "relay"},
    "exact-quantised": KAPPA | {"codec": "exact", "downlink": "quantised"},
    "exact-float32": KAPPA | {"codec": "exact", "downlink": "float32"},
    "exact-part": KAPPA | {"codec": "exact", "participation": 0.4, "min-clients": 1, "num-server-rounds": 5},
    "exact-part-relayed": KAPPA | {
        "codec": "exact", "participation": 0.4, "min-clients": 1, "num-server-rounds": 5, "downlink": "relay",
    },
    "bitmap": PAPER | {"codec": "bitmap"},
    "bloom": KAPPA | {"codec": "bloom"},
    "bits": PAPER | {"codec": "bits"},
    "prior": KAPPA | {"codec": "exact", "prior": 2.0, "theta-clip": 0.05, "initial-theta": 0.9},
    "mean-augmented": KAPPA | {
        "head": "mean", **NO_PROBE, "augment": 2, "augment-mirror": False, "codec": "exact",
    },
    "head-finetuned": KAPPA | {"head-finetune-rounds": 2, "codec": "exact"},
    "validated": KAPPA | {"validation-fraction": 0.2, "personal-test": True, "codec": "exact", "eval-every": 2},
    "dirichlet": KAPPA | {"partitioner": "dirichlet", "dirichlet-alpha": 0.5, "codec": "exact"},
    "pathological": KAPPA | {"partitioner": "pathological", "classes-per-client": 4, "codec": "exact"},
    "fedavg": FEDAVG,
    "fedavg-scratch": FEDAVG | LENET,
    "fedavg-calibrated": FEDAVG | {"calibration": 1.0},
    "lotteryfl": {"method": "lotteryfl", "density": 0.3, "lottery-accuracy": 0.1, "num-server-rounds": 4},
    "hidenseek": SIGNS,
    "hidenseek-fuse8": {**SIGNS, "sign-codec": "fuse8", "sign-learning-rate": 0.0003},
    "hidenseek-constant": {**SIGNS, "sign-magnitudes": "constant", "sign-momentum": 0.3, "sign-turn-share": 0.2},
    "hidenseek-scores": {**SIGNS, "upload": "scores"},
    "hidenseek-local": {**SIGNS, "local-only": True},
    "hidenseek-pretrained": {"method": "hidenseek", "prune-passes": 3, "sign-weighting": "clients"},
}  # fmt: skip

PORTABLE = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR",
    "OMP_NUM_THREADS": "1",
}
"""One way of rounding for all processors: no vector unit that some lack."""


def fingerprint() -> str:
    """Names how this process rounds: of a small network's training, by torch alone."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(1)
    x = torch.randn(64, 3, 12, 12)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(1600, 64),
        torch.nn.LayerNorm(64), torch.nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0), torch.nn.Linear(64, 10),
    )  # fmt: skip
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01, fused=True)
    for _ in range(5):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(x), torch.arange(64) % 10).backward()
        optimiser.step()
    state = hashlib.blake2b(digest_size=8)
    for parameter in network.parameters():
        state.update(parameter.detach().numpy().tobytes())
    values = np.linspace(0.001, 0.999, 10_000)
    solved = np.linalg.solve(np.outer(values[:50], values[-50:]) + np.eye(50), values[:50])
    state.update((np.log(values / (1 - values)).sum() + np.exp(values).sum() + solved.sum()).tobytes())
    return state.hexdigest()


def digests(names: list[str]) -> dict[str, Any]:
    """Digests of every round, and the accuracies, of each run."""
    from tests.conftest import name_this_process
    from tests.e2e.in_process import run_in_process

    name_this_process()
    found = {}
    nodes = [{"partition-id": number, "num-partitions": NODES} for number in range(NODES)]
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            results = run_in_process(Path(folder), SHARED | RUNS[name], nodes)
            assert results["status"] == "completed"
        rounds = results["rounds"]
        assert all(entry["clients"]["ok"] == entry["clients"]["asked"] for entry in rounds), rounds
        found[name] = [[entry["digest"], (entry["accuracy"] or {}).get("mean")] for entry in rounds]
    return found


def in_portable_process(names: list[str]) -> dict[str, Any]:
    """What this module prints there: the fingerprint, and the digests of some runs."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.golden_runs", *names],
        env=os.environ | PORTABLE,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"default: all of {', '.join(RUNS)}")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    names = args.names or list(RUNS)
    if args.write:
        GOLDEN.write_text(json.dumps(in_portable_process(names), indent=1) + "\n")
        return
    print(json.dumps({"fingerprint": fingerprint(), "runs": digests(names)}))


if __name__ == "__main__":
    main()
