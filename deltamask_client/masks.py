"""The client's part of DeltaMask: theta from the server's message and its disk, and back as an encoded delta."""

from __future__ import annotations

import numpy as np
import torch
from flwr.app import RecordDict
from numpy.typing import NDArray

from common.codecs import Codec, SharedState, get_codec
from common.config import NodeConfig, RunConfig
from common.downlink import apply_chain
from common.messages import unpack_classes, unpack_global, unpack_round
from common.models import Head, loss_and_accuracy
from common.selection import cosine_kappa
from common.theta import probabilities, theta_digest
from common.uniforms import stream_seed
from deltamask_client.answer import Answer
from deltamask_client.epochs import Fit
from deltamask_client.personal import personal_test
from deltamask_client.site import Site, device_of, load_site, progress_of, recipe_of
from deltamask_client.store import Held, ThetaStore, head_from
from deltamask_client.training import train_masks

__all__ = ["evaluate_masks", "make_codec", "train_from_theta"]


def train_from_theta(content: RecordDict, run: RunConfig, node: NodeConfig, store: ThetaStore) -> Answer:
    """Train scores from the global theta, and encode which bits of a sampled mask changed."""
    server_round, slot = unpack_round(content)
    site, theta, head, holds = _receive(content, run, node, store)
    trains_head = server_round > run.frozen_head_rounds
    result = train_masks(
        site.backbone,
        head,
        site.activations,
        site.labels,
        theta,
        recipe_of(run, node, run.learning_rate),
        seed=stream_seed(run.seed, server_round, node.partition_id, "train"),
        head_learning_rate=run.head_finetune_learning_rate if trains_head else 0.0,
        progress=progress_of(run, site, server_round),
    )
    shared = SharedState(theta, run.seed, server_round, slot, site.backbone.masks.segments)
    payload = make_codec(run, node, server_round).encode(result.theta, shared)
    site.backbone.masks.set_multiplier(torch.from_numpy(result.theta))
    personal = personal_test(run, node, server_round, site, result.head)
    return Answer(site, result.fit, payload, holds, result.head.to_bytes() if trains_head else None, personal)


def evaluate_masks(content: RecordDict, run: RunConfig, node: NodeConfig, store: ThetaStore) -> Answer:
    """Loss and accuracy of the weights times theta on the images held out."""
    site, theta, head, holds = _receive(content, run, node, store, validation=True)
    site.backbone.masks.set_multiplier(torch.from_numpy(probabilities(theta)))
    found = loss_and_accuracy(site.backbone.tail, head, site.activations, site.labels, run.eval_batch_size)
    return Answer(site, Fit(*found), b"", holds)


def make_codec(run: RunConfig, node: NodeConfig, server_round: int) -> Codec:
    """The codec of one client in a round."""
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


def _receive(
    content: RecordDict, run: RunConfig, node: NodeConfig, store: ThetaStore, validation: bool = False
) -> tuple[Site, NDArray[np.uint16], Head, bytes | None]:
    """The global model of a message, kept for the next one, and the site whose classes its head has; the last value is
    the digest of the theta kept.
    """
    held = store.load()
    site = load_site(run, node, unpack_classes(content) or (held.classes if held else ()), validation)
    masks = site.backbone.masks
    chain, head_bytes = unpack_global(content.array_records["arrays"])
    theta = apply_chain(chain, held and held.theta, masks.d, run.seed, masks.segments)
    head = head_from(head_bytes, held, len(site.classes), site.backbone.features)
    return site, theta, head, theta_digest(theta) if store.save(Held(theta, head, site.classes)) else None
