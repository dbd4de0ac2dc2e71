"""The client's part of FedAvg: weights in, weights out; nothing is kept between rounds."""

from __future__ import annotations

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from common.config import NodeConfig, RunConfig
from common.errors import WrongModel
from common.messages import unpack_classes, unpack_global, unpack_round
from common.models import Head, TailWeights, loss_and_accuracy
from common.uniforms import stream_seed
from common.weights_payload import join_weights, pack_weights, weights_digest
from deltamask_client.answer import Answer
from deltamask_client.epochs import Fit
from deltamask_client.full_training import train_weights
from deltamask_client.personal import personal_test
from deltamask_client.site import Site, load_site, progress_of, recipe_of
from deltamask_client.store import ThetaStore

__all__ = ["evaluate_weights", "score_weights", "train_from_weights"]


def train_from_weights(content: RecordDict, run: RunConfig, node: NodeConfig, store: ThetaStore) -> Answer:
    """Train all parameters of the last blocks and the head, and send them."""
    server_round, slot = unpack_round(content)
    site, tail, head, base = _receive(content, run, node)
    result = train_weights(
        site.backbone,
        head,
        site.activations,
        site.labels,
        tail,
        recipe_of(run, node, run.weight_learning_rate),
        seed=stream_seed(run.seed, server_round, node.partition_id, "train"),
        progress=progress_of(run, site, server_round),
    )
    with TailWeights(site.backbone).borrowed(result.tail):
        personal = personal_test(run, node, server_round, site, result.head)
    payload = pack_weights(join_weights(result.tail, result.head), server_round, slot, base)
    return Answer(site, result.fit, payload, None, personal=personal)


def evaluate_weights(content: RecordDict, run: RunConfig, node: NodeConfig, store: ThetaStore) -> Answer:
    """Loss and accuracy of the global weights on the images held out."""
    site, tail, head, _ = _receive(content, run, node, validation=True)
    return Answer(site, score_weights(run, site, tail, head), b"", None)


def score_weights(run: RunConfig, site: Site, tail: NDArray[np.float32], head: Head) -> Fit:
    """Loss and accuracy of weights on a site's images; both 0 without images."""
    with TailWeights(site.backbone).borrowed(tail):
        return Fit(*loss_and_accuracy(site.backbone.tail, head, site.activations, site.labels, run.eval_batch_size))


def _receive(
    content: RecordDict, run: RunConfig, node: NodeConfig, validation: bool = False
) -> tuple[Site, NDArray[np.float32], Head, bytes]:
    """Site, parameters of the blocks, head, and the digest of both."""
    site = load_site(run, node, unpack_classes(content), validation)
    sent, head_bytes = unpack_global(content.array_records["arrays"])
    count = TailWeights(site.backbone).count
    if len(sent) != 4 * count or head_bytes is None:
        raise WrongModel(f"{len(sent)} bytes of weights; {4 * count} and a head are needed")
    head = Head.from_bytes(head_bytes, len(site.classes), site.backbone.features)
    tail = np.frombuffer(sent, "<f4").astype(np.float32)
    return site, tail, head, weights_digest(join_weights(tail, head))
