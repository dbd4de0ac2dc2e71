"""The client's part of HideNseek: the subnetwork and signs from the server's message and its disk, and back as encoded
signs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from common.config import NodeConfig, RunConfig
from common.downlink import apply_chain
from common.errors import WrongModel
from common.messages import unpack_classes, unpack_global, unpack_round, unpack_subnetwork
from common.models import loss_and_accuracy
from common.models.heads.random_head import RANDOM_HEAD
from common.models.sign_network import SignNetwork, network_segments, network_weights
from common.models.subnetwork import Subnetwork
from common.signs import SignState, as_floats, encode_signs, initial_scores, positive_signs, signs_to_theta
from common.theta import theta_digest
from common.uniforms import stream_seed
from common.weights_payload import pack_empty, pack_weights, read_weights, weights_digest
from common.wire import METHODS
from deltamask_client.answer import Answer
from deltamask_client.epochs import Fit
from deltamask_client.personal import personal_test
from deltamask_client.sign_training import train_signs
from deltamask_client.site import Site, load_site, progress_of, recipe_of
from deltamask_client.store import Held, ThetaStore, head_from

__all__ = ["evaluate_signs", "train_from_signs"]

_METHOD = METHODS["hidenseek"]


class _Received(NamedTuple):
    """The global model, and where it is to be trained."""

    site: Site
    network: SignNetwork
    kept_segments: tuple[int, ...]
    held: Held
    """With the newest signs; they are none where scores travel."""
    scores: NDArray[np.float32] | None
    """Global scores ``(n,)``, where these travel instead of signs."""


def train_from_signs(content: RecordDict, run: RunConfig, node: NodeConfig, store: ThetaStore) -> Answer:
    """Train the signs of the kept weights from the global ones, and encode them."""
    server_round, slot = unpack_round(content)
    site, network, kept_segments, held, scores = _receive(content, run, node, store)
    if scores is None:
        client = node.partition_id
        scores = initial_scores(positive_signs(held.theta), run.score_init, run.seed, server_round, client)
    result = train_signs(
        site.backbone,
        network,
        held.head,
        site.activations,
        site.labels,
        scores,
        recipe_of(run, node, run.sign_learning_rate),
        seed=stream_seed(run.seed, server_round, node.partition_id, "train"),
        progress=progress_of(run, site, server_round),
    )
    personal = personal_test(run, node, server_round, site, network.logits)
    if run.local_only:  # its own signs take the place of the global ones, and nothing is sent
        own = held._replace(theta=signs_to_theta(result.positive))
        holds = theta_digest(own.theta) if store.save(own) else None
        return Answer(site, result.fit, pack_empty(_METHOD, server_round, slot), holds, personal=personal)
    if run.upload == "scores":
        base = weights_digest(scores)
        payload = pack_weights(result.scores, server_round, slot, base, _METHOD)
        return Answer(site, result.fit, payload, None, personal=personal)
    shared = SignState(held.theta, run.seed, server_round, slot, kept_segments)
    payload = encode_signs(result.positive, shared, run.sign_codec)
    holds = theta_digest(held.theta) if store.save(held) else None
    return Answer(site, result.fit, payload, holds, personal=personal)


def evaluate_signs(content: RecordDict, run: RunConfig, node: NodeConfig, store: ThetaStore) -> Answer:
    """Loss and accuracy of the global signs on the images held out."""
    site, network, _, held, scores = _receive(content, run, node, store, validation=True)
    signs = as_floats(positive_signs(held.theta)) if scores is None else scores
    network.load(held.head, signs)
    found = loss_and_accuracy(site.backbone.tail, network.logits, site.activations, site.labels, run.eval_batch_size)
    keeps = scores is None and store.save(held)
    return Answer(site, Fit(*found), b"", theta_digest(held.theta) if keeps else None)


def _receive(
    content: RecordDict, run: RunConfig, node: NodeConfig, store: ThetaStore, validation: bool = False
) -> _Received:
    held = store.load()
    arrays = content.array_records["arrays"]
    chain, head_bytes = unpack_global(arrays)
    packed = unpack_subnetwork(arrays)
    classes = unpack_classes(content) or (held.classes if held else ())
    site = load_site(run, node, classes, validation)
    head = head_from(head_bytes, held, len(site.classes), site.backbone.features)
    if packed is None:
        if held is None or not held.subnetwork:
            raise WrongModel("the server sent no subnetwork, and this client holds none")
        packed = held.subnetwork
    signed_head = head if run.head == RANDOM_HEAD else None
    subnetwork, prepared = Subnetwork.from_bytes(
        packed,
        network_weights(site.backbone, signed_head),
        network_segments(site.backbone, signed_head),
        run.sign_magnitudes,
    )
    network = SignNetwork(site.backbone, subnetwork, prepared)
    if run.upload == "scores":
        held = Held(np.zeros(0, np.uint16), head, site.classes, packed)
        return _Received(site, network, subnetwork.kept_segments, held, read_weights(chain, subnetwork.n))
    if run.local_only and held is not None:
        theta = held.theta
    else:
        theta = apply_chain(chain, held and held.theta, subnetwork.n, run.seed, subnetwork.kept_segments)
    return _Received(site, network, subnetwork.kept_segments, Held(theta, head, site.classes, packed), None)
