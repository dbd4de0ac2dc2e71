"""Three sites that tell two classes apart: one mostly of one class, one balanced, one of a single class.

    python -m benchmarks.experiments.two_classes run --data ../shared/data     # forty minutes on two cores
    python -m benchmarks.experiments.two_classes table

Pullovers and coats of Fashion-MNIST, hard to tell apart; ten seeds, each with images of its own. What a hospital meets
that joins with two others: does training make the model worse than the head that it starts from?
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.experiments.methods import PAPER
from benchmarks.experiments.runs import Plan, command_line, load

FILE = "fashion_mnist_20k.npz"
CLASSES = (2, 4)
SITES = ((40, 500), (300, 300), (0, 200))
"""Images of each class at each site, one to three in all."""
COMMON: dict[str, Any] = {
    "weights": "vit_tiny_patch16_224.safetensors",
    "backbone": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "image-size": 96,
    "head": "ridge",
    "num-server-rounds": 6,
    "local-epochs": 1,
    "batch-size": 16,
}
SEEDS = range(1, 11)
METHODS: dict[str, dict[str, Any]] = {"deltamask": {}, "paper": PAPER}


def write_sites(data: Path, folder: Path, seed: int) -> tuple[str, list[str]]:
    """The server's test images and each site's own, as datasets; the same images for the same seed."""
    folder.mkdir(parents=True, exist_ok=True)
    with np.load(data / FILE, allow_pickle=False) as kept:
        arrays = {name: kept[name] for name in ("x_train", "y_train", "x_test", "y_test", "classes")}
    rng = np.random.default_rng(seed)
    pools = [rng.permutation(np.flatnonzero(arrays["y_train"] == label)) for label in CLASSES]
    test = np.flatnonzero(np.isin(arrays["y_test"], CLASSES))
    names = arrays["classes"][list(CLASSES)]

    def write(name: str, train: Any) -> str:
        path = folder / f"{name}.npz"
        np.savez(
            path,
            x_train=arrays["x_train"][train],
            y_train=np.searchsorted(CLASSES, arrays["y_train"][train]),
            x_test=arrays["x_test"][test],
            y_test=np.searchsorted(CLASSES, arrays["y_test"][test]),
            classes=names,
        )
        return f"npz:{path}"

    sites = []
    for number, counts in enumerate(SITES):
        parts = [pool[:count] for pool, count in zip(pools, counts, strict=True)]
        pools = [pool[count:] for pool, count in zip(pools, counts, strict=True)]
        sites.append(write(f"site-{number}", np.concatenate(parts)))
    return write("server", np.concatenate([pool[:10] for pool in pools])), sites


def plans() -> Iterator[Plan]:
    """Ten seeds of the defaults, then of the paper's training."""
    for name, config in METHODS.items():
        for seed in SEEDS:
            sites = partial(_sites, seed=seed)
            yield Plan(f"{name}-s{seed:02d}", COMMON | config | {"seed": seed}, supernodes=len(SITES), sites=sites)


def _sites(data: Path, folder: Path, seed: int) -> tuple[str, list[str]]:
    return write_sites(data, folder, seed)


def table() -> str:
    """What is kept, as Markdown: a line a seed, and the mean."""
    lines = [
        "| method | seed | head alone, % | kept model, % (round) | last round, % | uplink bpp |",
        "|---|---|---|---|---|---|",
    ]
    for name in METHODS:
        runs = load("two_classes", f"{name}-s*")
        rows = []
        for run in runs:
            evaluated = {0: run["linear_probe"]["accuracy"]} | {
                e["round"]: e["accuracy"]["mean"] for e in run["rounds"]
            }
            kept = run["kept"]["round"]
            uplink = fmean(entry["uplink"]["bpp"] for entry in run["rounds"])
            rows.append((100 * evaluated[0], 100 * evaluated[kept], 100 * evaluated[max(evaluated)], uplink))
            head, best, last, _ = rows[-1]
            lines.append(
                f"| {name} | {run['config']['seed']} | {head:.1f} | {best:.1f} ({kept}) | {last:.1f} | {uplink:.4f} |"
            )
        if rows:
            head, best, last, uplink = map(fmean, zip(*rows, strict=True))
            lines.append(f"| {name} | mean of {len(rows)} | {head:.1f} | **{best:.1f}** | {last:.1f} | {uplink:.4f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    command_line("two_classes", plans, table)
