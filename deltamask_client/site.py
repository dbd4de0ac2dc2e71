"""What one client works with: its frozen model, and its part of the data as activations."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from common.config import NodeConfig, RunConfig
from common.data import load_dataset, partition_indices
from common.models import Activations, Backbone, Views, load_backbone
from common.uniforms import stream_seed
from deltamask_client.slow_log import SlowLog

__all__ = ["Site", "device_of", "load_frozen", "load_site", "precision_of"]


@dataclass(frozen=True)
class Site:
    """One client: its model and its part of the data."""

    backbone: Backbone
    activations: Activations
    labels: NDArray[np.int64]
    classes: int


def load_frozen(run: RunConfig, node: NodeConfig) -> Backbone:
    """The run's frozen model, on this client's device."""
    return _backbone(run.backbone, run.weights, run.image_size, run.masked_blocks, device_of(node))


def load_site(run: RunConfig, node: NodeConfig) -> Site:
    """Model and data of this client; activations come from its cache, or are computed now."""
    backbone = load_frozen(run, node)
    images, labels, classes = _local_data(
        run.dataset,
        run.train_limit,
        run.partitioner,
        node.num_partitions,
        node.partition_id,
        run.seed,
        run.dirichlet_alpha,
        run.classes_per_client,
    )
    activations = Activations(
        backbone,
        images,
        keep=node.activations,
        folder=node.cache_path,
        batch_size=run.eval_batch_size,
        views=Views(run.augment, run.augment_mirror, stream_seed(run.seed, 0, node.partition_id, "views")),
        precision=precision_of(node),
        progress=SlowLog("activations: %s of %s pictures"),
    )
    return Site(backbone, activations, labels, classes)


def device_of(node: NodeConfig) -> str:
    """The torch device that this client computes on."""
    if node.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return node.device


def precision_of(node: NodeConfig) -> torch.dtype:
    """What its layers compute in."""
    if node.precision == "auto":
        return torch.bfloat16 if torch.device(device_of(node)).type == "cuda" else torch.float32
    return torch.bfloat16 if node.precision == "bfloat16" else torch.float32


# One model and the clients of one run per process: a simulation worker serves many clients of one run in turn.
_backbone = functools.lru_cache(maxsize=1)(load_backbone)


@functools.lru_cache(maxsize=64)
def _local_data(
    dataset: str,
    train_limit: int,
    partitioner: str,
    num_partitions: int,
    partition_id: int,
    seed: int,
    dirichlet_alpha: float,
    classes_per_client: int,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], int]:
    data = load_dataset(dataset, train_limit)
    index = partition_indices(
        data.y_train,
        partitioner,
        num_partitions,
        partition_id,
        seed=seed,
        dirichlet_alpha=dirichlet_alpha,
        classes_per_client=classes_per_client,
    )
    return data.x_train[index], data.y_train[index], data.classes
