"""The ClientApp: answers who it is, measures what the head is made of, and trains masks in every round.

A client keeps no state that a restart would lose. What is expensive - the frozen prefix's activations - is cached on
disk; models are kept in memory for processes that serve more than one message (the simulation's).
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from common.codecs import Codec, SharedState, get_codec
from common.config import NodeConfig, RunConfig, parse_node_config, parse_run_config
from common.data import load_dataset, partition_indices
from common.downlink import apply_chain
from common.errors import WrongModel
from common.messages import Hello, pack_hello, pack_update, unpack_global
from common.models import Backbone, Head, cached_activations, get_head, load_backbone
from common.selection import cosine_kappa
from common.theta import theta_digest
from common.uniforms import stream_seed
from deltamask_client.store import ThetaStore
from deltamask_client.training import train_masks

__all__ = ["app"]

app = ClientApp()
_log = logging.getLogger("flwr")
_CLIENT_APP_RAISED = 2  # Flower's error code for an exception of a ClientApp


@dataclass(frozen=True)
class _Site:
    """One client: its config, its model and its part of the data."""

    backbone: Backbone
    activations: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: int


def _reported(
    handler: Callable[[Message, RunConfig, NodeConfig, ThetaStore], Message],
) -> Callable[[Message, Context], Message]:
    """Parse the configs, and report an exception to the server by its type alone: messages and tracebacks may name
    paths and data.
    """

    @functools.wraps(handler)
    def handle(message: Message, context: Context) -> Message:
        try:
            run, node = parse_run_config(context.run_config), parse_node_config(context.node_config)
            if run.threads:
                torch.set_num_threads(run.threads)
            return handler(message, run, node, ThetaStore(node.cache_path, node.partition_id, context.run_id))
        except Exception as error:
            _log.exception("this client cannot answer: %s", error)
            return Message(
                Error(_CLIENT_APP_RAISED, f"{type(error).__name__}; see the log of this SuperNode"), reply_to=message
            )

    return handle


@app.query()
@_reported
def hello(message: Message, run: RunConfig, node: NodeConfig, store: ThetaStore) -> Message:
    """Say who this client is and which frozen model it has."""
    backbone = _backbone(run.backbone, run.weights, run.image_size, run.masked_blocks, _device(node))
    held = store.load()
    holds = None if held is None else theta_digest(held[0])
    return Message(pack_hello(Hello(node.partition_id, backbone.digest, backbone.masks.d, holds)), reply_to=message)


@app.train("head")
@_reported
def head(message: Message, run: RunConfig, node: NodeConfig, store: ThetaStore) -> Message:
    """Measure the features of the frozen, unmasked backbone, as the run's kind of head asks."""
    start = time.perf_counter()
    site = _site(run, node)
    device = site.backbone.masks.parameters()[0].device
    features = torch.cat(
        [
            site.backbone.unmasked_features(
                torch.from_numpy(np.array(site.activations[i : i + run.eval_batch_size])).to(device)
            )
            for i in range(0, len(site.labels), run.eval_batch_size)
        ]
    )
    labels = torch.from_numpy(site.labels).to(device)
    kind = get_head(run.head, run.head_epochs, run.head_learning_rate)
    statistics = kind.statistics(features, labels, site.classes)
    with torch.no_grad():
        # The metrics are those of the head that this client would have alone.
        logits = kind.combine([(statistics, len(labels))], site.classes, features.shape[1])(features)
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        accuracy = (logits.argmax(1) == labels).float().mean().item()
    return Message(pack_update(statistics, _metrics(site, loss, accuracy, start)), reply_to=message)


@app.train()
@_reported
def train(message: Message, run: RunConfig, node: NodeConfig, store: ThetaStore) -> Message:
    """Train scores from the global theta and send the encoded delta."""
    start = time.perf_counter()
    site = _site(run, node)
    order = message.content.config_records["round"]
    server_round, slot = int(order["round"]), int(order["slot"])  # type: ignore[arg-type]
    masks = site.backbone.masks
    held = store.load()
    chain, head_bytes = unpack_global(message.content.array_records["arrays"])
    theta = apply_chain(chain, held and held[0], masks.d, run.seed, masks.segments)
    if head_bytes is not None:
        head = Head.from_bytes(head_bytes, site.classes, site.backbone.features)
    elif held is not None:
        head = held[1]
    else:
        raise WrongModel("the server sent no head, and this client holds none")
    holds = theta_digest(theta) if store.save(theta, head) else None
    trains_head = server_round > run.frozen_head_rounds
    result = train_masks(
        site.backbone,
        head,
        site.activations,
        site.labels,
        theta,
        epochs=run.local_epochs,
        batch_size=run.batch_size,
        learning_rate=run.learning_rate,
        seed=stream_seed(run.seed, server_round, node.partition_id, "train"),
        head_learning_rate=run.head_finetune_learning_rate if trains_head else 0.0,
    )
    payload = _codec(run, node, server_round).encode(
        result.theta, SharedState(theta, run.seed, server_round, slot, masks.segments)
    )
    metrics = _metrics(site, result.loss, result.accuracy, start)
    trained = result.head.to_bytes() if trains_head else None
    return Message(pack_update(payload, metrics, holds, trained), reply_to=message)


def _codec(run: RunConfig, node: NodeConfig, server_round: int) -> Codec:
    name = node.codec or run.codec
    keep = cosine_kappa(run.kappa, run.kappa_final, server_round, run.num_server_rounds)
    if name == "relative":
        budget = run.target_bpp if node.target_bpp is None else node.target_bpp
        device = _device(node)
        on_gpu = device if torch.device(device).type == "cuda" else None  # where the candidates are drawn and weighed
        return get_codec(name, keep, preset=run.relative_preset, target_bpp=budget, device=on_gpu)
    if name.startswith("fuse"):
        return get_codec(name, keep, candidates=run.fuse_candidates)
    return get_codec(name, keep)


def _metrics(site: _Site, loss: float, accuracy: float, start: float) -> dict[str, float]:
    return {"examples": len(site.labels), "loss": loss, "accuracy": accuracy, "seconds": time.perf_counter() - start}


def _site(run: RunConfig, node: NodeConfig) -> _Site:
    backbone = _backbone(run.backbone, run.weights, run.image_size, run.masked_blocks, _device(node))
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
    activations = cached_activations(backbone, images, Path(node.cache_path), run.eval_batch_size)
    return _Site(backbone, activations, labels, classes)


def _device(node: NodeConfig) -> str:
    if node.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return node.device


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
