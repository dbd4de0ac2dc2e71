"""The client's part of LotteryFL: the global weights that it keeps, sometimes fewer of them, trained and sent.

Li et al., arXiv 2008.03371, algorithm 1 (ClientUpdate). docs/algorithm.md says what is theirs and what is our choice.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from common.config import NodeConfig, RunConfig
from common.errors import WrongModel
from common.messages import unpack_classes, unpack_global, unpack_round
from common.models import Head, TailWeights
from common.tickets import Global, mask_digest, pack_ticket, unpack_global_weights
from common.uniforms import stream_seed
from common.weights_payload import join_weights, split_weights
from deltamask_client.answer import Answer
from deltamask_client.full_training import train_weights
from deltamask_client.personal import personal_test
from deltamask_client.pruning import prune
from deltamask_client.site import Site, load_site, progress_of, recipe_of
from deltamask_client.ticket_store import Ticket, TicketStore
from deltamask_client.weights import score_weights

__all__ = ["evaluate_ticket", "train_ticket"]


def train_ticket(content: RecordDict, run: RunConfig, node: NodeConfig, store: TicketStore) -> Answer:
    """Prune and rewind if the global weights kept are good enough, train what is kept, and send it."""
    server_round, slot = unpack_round(content)
    site, found, ticket = _receive(content, run, node, store)
    backbone, shape = site.backbone, (len(site.classes), site.backbone.features)
    tail = TailWeights(backbone)
    weights = found.weights
    if _accuracy(run, node, site, weights) > run.lottery_accuracy:
        kept = prune(weights, ticket.kept, _prunable(tail, *shape), run.lottery_step, run.density)
        if kept is not ticket.kept:
            ticket = replace(ticket, kept=kept)
            weights = np.where(kept, join_weights(tail.read(), ticket.initial_head), np.float32(0))
    result = train_weights(
        backbone,
        split_weights(weights, *shape)[1],
        site.activations,
        site.labels,
        weights[: tail.count],
        recipe_of(run, node, run.weight_learning_rate),
        seed=stream_seed(run.seed, server_round, node.partition_id, "train"),
        kept=ticket.kept,
        progress=progress_of(run, site, server_round),
    )
    with tail.borrowed(result.tail):
        personal = personal_test(run, node, server_round, site, result.head)
    trained = join_weights(result.tail, result.head)
    payload = pack_ticket(trained, ticket.kept, server_round, slot, found.digest)
    holds = mask_digest(ticket.kept) if store.save(ticket) else None
    return Answer(site, result.fit, payload, holds, personal=personal)


def evaluate_ticket(content: RecordDict, run: RunConfig, node: NodeConfig, store: TicketStore) -> Answer:
    """Loss and accuracy of the global weights that this client keeps, on the images held out."""
    site, found, _ = _receive(content, run, node, store, validation=True)
    fit = score_weights(run, site, *split_weights(found.weights, len(site.classes), site.backbone.features))
    return Answer(site, fit, b"", store.digest())


def _receive(
    content: RecordDict, run: RunConfig, node: NodeConfig, store: TicketStore, validation: bool = False
) -> tuple[Site, Global, Ticket]:
    """Site, the global weights (0 where they are pruned here), and the client's ticket: of all weights, if it has none
    on its disk.
    """
    held = store.load()
    site = load_site(run, node, unpack_classes(content) or (held.classes if held else ()), validation)
    shape = len(site.classes), site.backbone.features
    tail_count = TailWeights(site.backbone).count
    kept = held.kept if held else np.ones(tail_count + Head.size(*shape) // 4, np.bool_)
    sent, head_bytes = unpack_global(content.array_records["arrays"])
    head = None if head_bytes is None else Head.from_bytes(head_bytes, *shape)
    found = unpack_global_weights(sent, head, kept, tail_count, *shape)
    if found.initial_head is not None:
        ticket = Ticket(kept, found.initial_head, site.classes)
    elif held is not None:
        ticket = held
    else:
        raise WrongModel("the server sent no head to rewind to, and this client holds none")
    return site, replace(found, weights=np.where(kept, found.weights, np.float32(0))), ticket


def _accuracy(run: RunConfig, node: NodeConfig, site: Site, weights: NDArray[np.float32]) -> float:
    """Accuracy on the images held out, as in the paper; on those trained on where none are."""
    held_out = load_site(run, node, site.classes, validation=True) if run.validation_fraction else site
    judge = held_out if len(held_out.labels) else site
    return score_weights(run, judge, *split_weights(weights, len(site.classes), site.backbone.features)).accuracy


def _prunable(tail: TailWeights, classes: int, features: int) -> NDArray[np.bool_]:
    """Weights of Linear and Conv2d layers, the head's among them; no biases and norms."""
    return np.concatenate([tail.masked, np.ones(classes * features, np.bool_), np.zeros(classes, np.bool_)])
