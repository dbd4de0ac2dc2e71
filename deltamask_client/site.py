"""What one client works with: its frozen model, its part of the data as activations, and how it trains."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from common.config.node import NodeConfig
from common.config.run import RunConfig
from common.config.shared import MirrorSection
from common.models.activations import Activations
from common.models.backbone import Backbone, load_backbone
from common.models.views import Views
from common.uniforms import stream_seed
from deltamask_client.epochs import Recipe
from deltamask_client.images import site_images
from deltamask_client.objective import CROSS_ENTROPY, Objective, OptimiserOf
from deltamask_client.slow_log import SlowLog

__all__ = ["Site", "activations_of", "device_of", "load_frozen", "load_site", "progress_of", "recipe_of"]


@dataclass(frozen=True)
class Site:
    """One client: its model and its part of the data, to train on or to validate with."""

    backbone: Backbone
    activations: Activations
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    broken: int
    """Images that could not be read."""


def load_frozen(run: RunConfig, node: NodeConfig) -> Backbone:
    """The run's frozen model, on this client's device."""
    keys = run.backbone
    return _backbone(keys.backbone, keys.weights, keys.image_size, keys.masked_blocks, device_of(node), node.cache_path)


def load_site(run: RunConfig, node: NodeConfig, classes: tuple[str, ...], validation: bool = False) -> Site:
    """Model and data of this client; activations come from its cache, or are computed now.

    Parameters
    ----------
    run, node
        Configs of the run and of this client.
    classes
        Class list of the run; empty for that of this client's own copy of the dataset.
    validation
        Take the images held out instead of those to train on.
    """
    backbone = load_frozen(run, node)
    local = site_images(run, node, classes, backbone.spec.size)
    images, labels = local.validation if validation else local.training
    activations = activations_of(
        run, node, backbone, images, local.identity(validation), augmented=0 if validation else run.training.augment
    )
    return Site(backbone, activations, labels, local.classes, local.broken)


def activations_of(
    run: RunConfig,
    node: NodeConfig,
    backbone: Backbone,
    images: NDArray[np.uint8],
    identity: bytes,
    augmented: int = 0,
) -> Activations:
    """Prefix outputs of images, uint8 ``(n, height, width)`` or with ``3`` behind it, kept where this client keeps
    them.

    Parameters
    ----------
    run, node
        Configs of the run and of this client.
    backbone
        The frozen model.
    images, identity
        What goes in, and what names it without being read (`common.data.Loaded.identity`).
    augmented
        Views of each image beside itself.
    """
    seed = stream_seed(run.rounds.seed, 0, node.partition_id, "views")
    return Activations(
        backbone,
        images,
        keep=node.activations,
        folder=node.cache_path,
        batch_size=run.evaluation.eval_batch_size,
        views=Views(augmented, run[MirrorSection].augment_mirror, seed),
        precision=_precision_of(node),
        progress=SlowLog("activations: %s of %s pictures"),
        identity=identity,
        limit_bytes=node.cache_limit_bytes,
    )


def recipe_of(run: RunConfig, node: NodeConfig, optimiser: OptimiserOf, objective: Objective = CROSS_ENTROPY) -> Recipe:
    """How this client trains, by which steps and for what."""
    keys = run.training
    return Recipe(
        keys.local_epochs,
        node.batch_size or keys.batch_size,
        optimiser,
        objective,
        precision=_precision_of(node),
    )


def progress_of(run: RunConfig, site: Site, server_round: int) -> SlowLog:
    """Where a long round has got to."""
    of = len(site.labels)
    return SlowLog(f"round {server_round}, epoch %s of {run.training.local_epochs}: %s of {of} images, loss %.4f")


def device_of(node: NodeConfig) -> str:
    """The torch device that this client computes on."""
    if node.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return node.device


def _precision_of(node: NodeConfig) -> torch.dtype:
    if node.precision == "auto":
        return torch.bfloat16 if torch.device(device_of(node)).type == "cuda" else torch.float32
    return torch.bfloat16 if node.precision == "bfloat16" else torch.float32


# One model per process: a simulation worker serves many clients of one run in turn.
_backbone = functools.lru_cache(maxsize=1)(load_backbone)
