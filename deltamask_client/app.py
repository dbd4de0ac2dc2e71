"""The ClientApp: answers who it is, fits the head once, trains masks in every round, and tells how good the model is on
images it has held out.

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
from common.downlink import apply_chain
from common.errors import WrongModel
from common.messages import Hello, pack_evaluation, pack_hello, pack_update, unpack_classes, unpack_global
from common.models import Backbone, Head, cached_activations, fit_linear_probe, load_backbone, score
from common.selection import cosine_kappa
from common.theta import probabilities, theta_digest
from common.uniforms import stream_seed
from deltamask_client.images import check_source, site_images
from deltamask_client.store import ThetaStore
from deltamask_client.training import train_masks

__all__ = ["app"]

app = ClientApp()
_log = logging.getLogger("flwr")
_CLIENT_APP_RAISED = 2  # Flower's error code for an exception of a ClientApp


@dataclass(frozen=True)
class _Site:
    """One client: its model and its part of the data, to train on or to validate with."""

    backbone: Backbone
    activations: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    broken: int
    """Images that could not be read."""


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
    """Say who this client is and which frozen model it has; fail if its images are missing or of other classes."""
    check_source(run, node, unpack_classes(message.content))
    backbone = _backbone(run.backbone, run.weights, run.image_size, run.masked_blocks, _device(node))
    held = store.load()
    holds = None if held is None else theta_digest(held[0])
    return Message(pack_hello(Hello(node.partition_id, backbone.digest, backbone.masks.d, holds)), reply_to=message)


@app.train("head")
@_reported
def head(message: Message, run: RunConfig, node: NodeConfig, store: ThetaStore) -> Message:
    """Fit a linear probe on the features of the frozen, unmasked backbone."""
    start = time.perf_counter()
    site = _site(run, node, unpack_classes(message.content))
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
    probe = fit_linear_probe(features, labels, len(site.classes), run.head_epochs, run.head_learning_rate)
    with torch.no_grad():
        logits = probe(features)
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        accuracy = (logits.argmax(1) == labels).float().mean().item()
    return Message(pack_update(probe.to_bytes(), _metrics(site, loss, accuracy, start)), reply_to=message)


@app.train()
@_reported
def train(message: Message, run: RunConfig, node: NodeConfig, store: ThetaStore) -> Message:
    """Train scores from the global theta and send the encoded delta."""
    start = time.perf_counter()
    order = message.content.config_records["round"]
    server_round, slot = int(order["round"]), int(order["slot"])  # type: ignore[arg-type]
    site, theta, head, holds = _receive(message, run, node, store)
    masks = site.backbone.masks
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
    )
    payload = _codec(run, node, server_round).encode(
        result.theta, SharedState(theta, run.seed, server_round, slot, masks.segments)
    )
    return Message(pack_update(payload, _metrics(site, result.loss, result.accuracy, start), holds), reply_to=message)


@app.evaluate()
@_reported
def evaluate(message: Message, run: RunConfig, node: NodeConfig, store: ThetaStore) -> Message:
    """Tell how good the global model, weights times theta, is on the images that this client never trains on."""
    start = time.perf_counter()
    site, theta, head, holds = _receive(message, run, node, store, validation=True)
    multiplier = torch.from_numpy(probabilities(theta))
    loss, accuracy = score(site.backbone, head, multiplier, site.activations, site.labels, run.eval_batch_size)
    return Message(pack_evaluation(_metrics(site, loss, accuracy, start), holds), reply_to=message)


def _receive(
    message: Message, run: RunConfig, node: NodeConfig, store: ThetaStore, validation: bool = False
) -> tuple[_Site, NDArray[np.uint16], Head, bytes | None]:
    """The global model of a message, kept for the next one, and the site whose classes its head has; the last value is
    the digest of the theta kept.
    """
    held = store.load()
    site = _site(run, node, unpack_classes(message.content) or (held[2] if held else ()), validation)
    masks = site.backbone.masks
    chain, head_bytes = unpack_global(message.content.array_records["arrays"])
    theta = apply_chain(chain, held and held[0], masks.d, run.seed, masks.segments)
    if head_bytes is not None:
        head = Head.from_bytes(head_bytes, len(site.classes), site.backbone.features)
    elif held is not None:
        head = held[1]
    else:
        raise WrongModel("the server sent no head, and this client holds none")
    return site, theta, head, theta_digest(theta) if store.save(theta, head, site.classes) else None


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
    return {
        "examples": len(site.labels),
        "loss": loss,
        "accuracy": accuracy,
        "seconds": time.perf_counter() - start,
        "broken": site.broken,
    }


def _site(run: RunConfig, node: NodeConfig, classes: tuple[str, ...], validation: bool = False) -> _Site:
    backbone = _backbone(run.backbone, run.weights, run.image_size, run.masked_blocks, _device(node))
    local = site_images(run, node, classes, backbone.spec.size)
    images, labels = local.validation if validation else local.training
    activations = cached_activations(backbone, images, Path(node.cache_path), run.eval_batch_size)
    return _Site(backbone, activations, labels, local.classes, local.broken)


def _device(node: NodeConfig) -> str:
    if node.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return node.device


# One model per process: a simulation worker serves many clients of one run in turn.
_backbone = functools.lru_cache(maxsize=1)(load_backbone)
