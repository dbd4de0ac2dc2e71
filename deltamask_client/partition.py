"""How training images are divided among clients, by the partitioners of flwr-datasets.

All parts are made at once and kept in one small file: a deployed client is a new process for every message, and neither
divides again nor waits for the libraries to be imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError
from common.extras import require
from common.files import CACHE_BYTES, evict, keep_array, kept_array

__all__ = ["partition_indices"]

_LIBRARIES = ("datasets", "flwr-datasets", "numpy")
_NOBODY = -1


class _Way(NamedTuple):
    """How to divide, as `partition_indices` is told."""

    partitioner: str
    clients: int
    seed: int
    alpha: float
    classes: int


def partition_indices(
    labels: NDArray[np.int64],
    partitioner: str,
    num_partitions: int,
    partition_id: int,
    *,
    seed: int,
    dirichlet_alpha: float = 1.0,
    classes_per_client: int = 2,
    cache: Path | None = None,
    limit_bytes: int = CACHE_BYTES,
) -> NDArray[np.int64]:
    """Positions of one client's training images; the same seed gives the same partition on every machine.

    Parameters
    ----------
    labels
        int64 ``(n,)``, of all training images.
    partitioner
        ``iid``, ``dirichlet`` or ``pathological``.
    num_partitions, partition_id
        Number of clients, and which one.
    seed
        Run seed.
    dirichlet_alpha, classes_per_client
        Parameters of the last two.
    cache
        Where the parts of all clients are kept; None: they are made anew.
    limit_bytes
        Size of all divisions that are kept there.

    Returns
    -------
    int64 ``(m,)``, ascending. No image is in two parts; ``pathological`` may leave some to nobody.

    Raises
    ------
    DataError
        If the data cannot be divided so (too few images or classes).
    """
    if num_partitions > len(labels):
        raise DataError(f"{len(labels)} training images cannot be divided among {num_partitions} clients")
    labels = np.ascontiguousarray(labels, dtype=np.int64)
    way = _Way(partitioner, num_partitions, seed, float(dirichlet_alpha), classes_per_client)
    if cache is None:
        owners = _divide(labels, way, [partition_id])
    else:
        owners = _kept(labels, way, cache / "partitions", limit_bytes)
    return np.flatnonzero(owners == partition_id).astype(np.int64)


def _kept(labels: NDArray[np.int64], way: _Way, folder: Path, limit_bytes: int) -> NDArray[np.int32]:
    key = hashlib.blake2b(repr((tuple(way), [version(library) for library in _LIBRARIES])).encode(), digest_size=16)
    key.update(labels.astype("<i8", copy=False).data)
    path = folder / f"{key.hexdigest()}.npy"
    found = kept_array(path)
    if found is not None and found.shape == labels.shape:
        return found
    owners = _divide(labels, way, range(way.clients))
    try:
        keep_array(path, owners)
    except OSError:  # read-only or full disk: the file saves time, nothing depends on it
        return owners
    evict(folder, limit_bytes, path)
    return owners


def _divide(labels: NDArray[np.int64], way: _Way, clients: Iterable[int]) -> NDArray[np.int32]:
    """Whose each image is, of some clients, int32 ``(n,)``; -1 is nobody's, or another's."""
    # Imported here: it takes seconds, and most messages find the division made.
    by_name = require("flwr_datasets.partitioner", "hub", f"partitioner = {way.partitioner!r}")
    datasets = require("datasets", "hub", f"partitioner = {way.partitioner!r}")

    # IidPartitioner cuts consecutive pieces: shuffle first, so that an ordered file is no trap.
    order = np.random.default_rng(way.seed).permutation(len(labels))
    owners = np.full(len(labels), _NOBODY, np.int32)
    try:
        if way.partitioner == "iid":
            by = by_name.IidPartitioner(way.clients)
        elif way.partitioner == "dirichlet":
            smallest = min(10, max(1, len(labels) // (10 * way.clients)))
            by = by_name.DirichletPartitioner(
                way.clients,
                partition_by="label",
                alpha=way.alpha,
                min_partition_size=smallest,
                self_balancing=False,
                seed=way.seed,
            )
        elif way.partitioner == "pathological":
            by = by_name.PathologicalPartitioner(
                way.clients,
                partition_by="label",
                num_classes_per_partition=way.classes,
                class_assignment_mode="first-deterministic",
                seed=way.seed,
            )
        else:
            raise DataError(f"partitioner = {way.partitioner!r}: use iid, dirichlet or pathological")
        by.dataset = datasets.Dataset.from_dict({"label": labels[order], "position": order})
        for client in clients:
            # All rows at once: a column alone is read row by row.
            owners[np.asarray(by.load_partition(client)[:]["position"], dtype=np.int64)] = client
    except ValueError as error:
        raise DataError(
            f"partitioner = {way.partitioner!r} cannot divide {len(labels)} images among {way.clients} clients: {error}"
        ) from error
    return owners
