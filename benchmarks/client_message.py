"""What a deployed client does before it trains, in a process of its own for every message: before and after it is kept.

    python -m benchmarks.client_message --data ../shared/data       # prints JSON; `--out FILE` keeps it

Both ways run in one process, alternating, and the shortest time of each counts; the old ways stand here as reference.
``after`` is a message that finds the cache filled, as all but the first do. What a new process imports is not counted,
though the division of a dataset once brought flwr-datasets, which takes seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from flwr_datasets.partitioner import DirichletPartitioner
from numpy.typing import NDArray

from common.data.npz import open_npz
from common.models.backbone import build_parts, digest_of
from common.models.presets import parse_name
from common.models.weights_identity import kept_digest, weights_identity
from deltamask_client.partition import partition_indices

BACKBONE = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
IMAGES, CLIENTS = 50_000, 100


def archive_before(path: Path, positions: NDArray[np.int64]) -> tuple[NDArray[np.uint8], bytes]:
    """All images inflated, and the pixels of one client's hashed."""
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in ("x_train", "y_train", "x_test", "y_test")}
    images = arrays["x_train"][positions]
    return images, hashlib.blake2b(images.tobytes(), digest_size=16).digest()


def archive_after(path: Path, positions: NDArray[np.int64], cache: Path) -> tuple[NDArray[np.uint8], bytes]:
    """Mapped from the cache, and known by file and positions."""
    loaded = open_npz(path, "train", False, cache).load(positions)
    return loaded.images, loaded.identity


def division_before(labels: NDArray[np.int64], client: int) -> NDArray[np.int64]:
    """All parts computed, and one of them read row by row."""
    order = np.random.default_rng(0).permutation(len(labels))
    by = DirichletPartitioner(
        CLIENTS, partition_by="label", alpha=1.0, min_partition_size=10, self_balancing=False, seed=0
    )
    by.dataset = Dataset.from_dict({"label": labels[order], "position": order})
    return np.sort(np.asarray(by.load_partition(client)["position"], dtype=np.int64))


def division_after(labels: NDArray[np.int64], client: int, cache: Path) -> NDArray[np.int64]:
    """Kept, for all clients."""
    return partition_indices(labels, "dirichlet", CLIENTS, client, seed=0, dirichlet_alpha=1.0, cache=cache)


def compared(what: str, before: Callable[[], Any], after: Callable[[], Any], times: int) -> dict[str, Any]:
    """Shortest milliseconds of both, taking turns."""
    seconds: tuple[list[float], list[float]] = ([], [])
    after()  # the cache is filled
    for _ in range(times):
        for way, kept in zip((before, after), seconds, strict=True):
            begun = time.perf_counter()
            way()
            kept.append(time.perf_counter() - begun)
    old, new = (1000 * min(kept) for kept in seconds)
    row = {"what": what, "before, ms": round(old, 2), "after, ms": round(new, 2), "times faster": round(old / new, 1)}
    print(json.dumps(row), flush=True)
    return row


def measure(data: Path, cache: Path, times: int) -> list[dict[str, Any]]:
    """Rows: weights, images, division."""
    weights, archive = str(data / "vit_tiny_patch16_224.safetensors"), data / "cifar10_10k.npz"
    parts = build_parts(BACKBONE, weights, 96, 5)

    def digest() -> bytes:
        return kept_digest(weights_identity(parse_name(BACKBONE), weights), lambda: digest_of(parts), cache)

    assert digest() == digest_of(parts)
    positions = np.arange(0, 8000, 10)
    labels = np.random.default_rng(1).integers(0, 10, IMAGES)
    assert np.array_equal(archive_before(archive, positions)[0], archive_after(archive, positions, cache)[0])
    assert np.array_equal(division_before(labels, 7), division_after(labels, 7, cache))
    return [
        compared("digest of the weights of ViT-Tiny, 5.5 million", lambda: digest_of(parts), digest, times),
        compared(
            "800 images of an .npz of 10,000, and what they are known by",
            lambda: archive_before(archive, positions),
            lambda: archive_after(archive, positions, cache),
            times,
        ),
        compared(
            f"one client's part of {IMAGES:,} labels, {CLIENTS} clients",
            lambda: division_before(labels, 7),
            lambda: division_after(labels, 7, cache),
            times,
        ),
    ]


def main() -> None:
    """Measure with a cache of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the .npz files and the ViT's weights")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--times", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deltamask-cache-") as cache:
        rows = measure(args.data.resolve(), Path(cache), args.times)
    result = {"command": "python -m benchmarks.client_message", "cores": os.cpu_count(), "rows": rows}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
