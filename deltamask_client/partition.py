"""How training images are divided among clients, by the partitioners of flwr-datasets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError
from common.extras import require

__all__ = ["partition_indices"]


def partition_indices(
    labels: NDArray[np.int64],
    partitioner: str,
    num_partitions: int,
    partition_id: int,
    *,
    seed: int,
    dirichlet_alpha: float = 1.0,
    classes_per_client: int = 2,
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

    Raises
    ------
    DataError
        If the data cannot be divided so (too few images or classes).
    """
    # Imported here: it takes seconds, and the server never divides data.
    by_name = require("flwr_datasets.partitioner", "hub", f"partitioner = {partitioner!r}")
    datasets = require("datasets", "hub", f"partitioner = {partitioner!r}")

    if num_partitions > len(labels):
        raise DataError(f"{len(labels)} training images cannot be divided among {num_partitions} clients")
    # IidPartitioner cuts consecutive pieces: shuffle first, so that an ordered file is no trap.
    order = np.random.default_rng(seed).permutation(len(labels))
    try:
        if partitioner == "iid":
            by = by_name.IidPartitioner(num_partitions)
        elif partitioner == "dirichlet":
            smallest = min(10, max(1, len(labels) // (10 * num_partitions)))
            by = by_name.DirichletPartitioner(
                num_partitions,
                partition_by="label",
                alpha=dirichlet_alpha,
                min_partition_size=smallest,
                self_balancing=False,
                seed=seed,
            )
        elif partitioner == "pathological":
            by = by_name.PathologicalPartitioner(
                num_partitions,
                partition_by="label",
                num_classes_per_partition=classes_per_client,
                class_assignment_mode="first-deterministic",
                seed=seed,
            )
        else:
            raise DataError(f"partitioner = {partitioner!r}: use iid, dirichlet or pathological")
        by.dataset = datasets.Dataset.from_dict({"label": labels[order], "position": order})
        part = by.load_partition(partition_id)
    except ValueError as error:
        raise DataError(
            f"partitioner = {partitioner!r} cannot divide {len(labels)} images among {num_partitions} clients: {error}"
        ) from error
    return np.sort(np.asarray(part["position"], dtype=np.int64))
