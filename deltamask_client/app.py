"""The ClientApp: answers who it is, fits the head once, and trains in every round.

A client keeps no state that a restart would lose. What is expensive - the frozen prefix's activations - is cached on
disk; models are kept in memory for processes that serve more than one message (the simulation's).
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable

import numpy as np
import torch
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from common.codecs import Codec, SharedState, get_codec
from common.config import NodeConfig, RunConfig, parse_node_config, parse_run_config
from common.downlink import apply_chain
from common.errors import WrongModel
from common.messages import Hello, pack_hello, pack_update, unpack_global, unpack_round
from common.models import Head, TailWeights, fit_linear_probe
from common.selection import cosine_kappa
from common.theta import theta_digest
from common.uniforms import stream_seed
from common.weights_payload import pack_weights, weights_digest
from deltamask_client.epochs import Fit, Recipe
from deltamask_client.full_training import train_weights
from deltamask_client.site import Site, device_of, load_frozen, load_site, precision_of
from deltamask_client.slow_log import SlowLog
from deltamask_client.store import ThetaStore
from deltamask_client.training import train_masks

__all__ = ["app"]

app = ClientApp()
_log = logging.getLogger("flwr")
_CLIENT_APP_RAISED = 2  # Flower's error code for an exception of a ClientApp


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
    backbone = load_frozen(run, node)
    held = store.load()
    holds = None if held is None else theta_digest(held[0])
    return Message(pack_hello(Hello(node.partition_id, backbone.digest, backbone.masks.d, holds)), reply_to=message)


@app.train("head")
@_reported
def head(message: Message, run: RunConfig, node: NodeConfig, store: ThetaStore) -> Message:
    """Fit a linear probe on the features of the frozen, unmasked backbone."""
    start = time.perf_counter()
    site = load_site(run, node)
    features = torch.cat(
        [site.backbone.unmasked_features(tokens) for _, tokens in site.activations.batches(run.eval_batch_size)]
    )
    labels = torch.from_numpy(site.labels).to(features.device)
    probe = fit_linear_probe(features, labels, site.classes, run.head_epochs, run.head_learning_rate)
    with torch.no_grad():
        logits = probe(features)
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        accuracy = (logits.argmax(1) == labels).float().mean().item()
    return Message(pack_update(probe.to_bytes(), _metrics(site, loss, accuracy, start)), reply_to=message)


@app.train()
@_reported
def train(message: Message, run: RunConfig, node: NodeConfig, store: ThetaStore) -> Message:
    """Train from the global model, and send what came of it in the way of the run's method."""
    start = time.perf_counter()
    site = load_site(run, node)
    step = _train_weights if run.method == "fedavg" else _train_masks
    payload, fit, holds = step(message, run, node, site, store)
    return Message(pack_update(payload, _metrics(site, fit.loss, fit.accuracy, start), holds), reply_to=message)


def _train_masks(
    message: Message, run: RunConfig, node: NodeConfig, site: Site, store: ThetaStore
) -> tuple[bytes, Fit, bytes | None]:
    """The encoded delta of a sampled mask; theta is kept on disk for the next round."""
    server_round, slot = unpack_round(message.content)
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
    result = train_masks(
        site.backbone,
        head,
        site.activations,
        site.labels,
        theta,
        _recipe(run, node, run.learning_rate),
        seed=stream_seed(run.seed, server_round, node.partition_id, "train"),
        progress=_progress(run, site, server_round),
    )
    payload = _codec(run, node, server_round).encode(
        result.theta, SharedState(theta, run.seed, server_round, slot, masks.segments)
    )
    return payload, result.fit, holds


def _train_weights(
    message: Message, run: RunConfig, node: NodeConfig, site: Site, store: ThetaStore
) -> tuple[bytes, Fit, None]:
    """The weights themselves; nothing is kept."""
    server_round, slot = unpack_round(message.content)
    sent, head_bytes = unpack_global(message.content.array_records["arrays"])
    count = TailWeights(site.backbone).count
    if len(sent) != 4 * count or head_bytes is None:
        raise WrongModel(f"{len(sent)} bytes of weights; {4 * count} and a head are needed")
    result = train_weights(
        site.backbone,
        Head.from_bytes(head_bytes, site.classes, site.backbone.features),
        site.activations,
        site.labels,
        np.frombuffer(sent, "<f4").astype(np.float32),
        _recipe(run, node, run.weight_learning_rate),
        seed=stream_seed(run.seed, server_round, node.partition_id, "train"),
        progress=_progress(run, site, server_round),
    )
    base = weights_digest(np.frombuffer(sent + head_bytes, "<f4").astype(np.float32))
    return pack_weights(result.flat, server_round, slot, base), result.fit, None


def _recipe(run: RunConfig, node: NodeConfig, learning_rate: float) -> Recipe:
    return Recipe(
        run.local_epochs,
        node.batch_size or run.batch_size,
        learning_rate,
        run.optimiser,
        run.momentum,
        precision_of(node),
    )


def _progress(run: RunConfig, site: Site, server_round: int) -> SlowLog:
    of = len(site.labels)
    return SlowLog(f"round {server_round}, epoch %s of {run.local_epochs}: %s of {of} images, loss %.4f")


def _codec(run: RunConfig, node: NodeConfig, server_round: int) -> Codec:
    name = node.codec or run.codec
    keep = cosine_kappa(run.kappa, run.kappa_final, server_round, run.num_server_rounds)
    if name == "relative":
        budget = run.target_bpp if node.target_bpp is None else node.target_bpp
        device = device_of(node)
        on_gpu = device if torch.device(device).type == "cuda" else None  # where the candidates are drawn and weighed
        return get_codec(name, keep, preset=run.relative_preset, target_bpp=budget, device=on_gpu)
    if name.startswith("fuse"):
        return get_codec(name, keep, candidates=run.fuse_candidates)
    return get_codec(name, keep)


def _metrics(site: Site, loss: float, accuracy: float, start: float) -> dict[str, float]:
    return {"examples": len(site.labels), "loss": loss, "accuracy": accuracy, "seconds": time.perf_counter() - start}
