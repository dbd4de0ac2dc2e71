"""LotteryFL on a client: the global weights that it keeps, sometimes fewer of them, trained and sent.

Li et al., arXiv 2008.03371, algorithm 1 (ClientUpdate). docs/algorithm.md says what is theirs and what is our choice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from common.config.node import NodeConfig
from common.config.run import RunConfig
from common.errors import WrongModel
from common.messages import Part, unpack_model, unpack_round
from common.methods.fedavg.config import WeightTrainingSection
from common.methods.fedavg.vector import join_weights, split_weights
from common.methods.hidenseek.config import DensitySection
from common.methods.lotteryfl.config import LotterySection
from common.methods.lotteryfl.downwards import Global, global_bytes, unpack_global_weights
from common.methods.lotteryfl.ticket import mask_digest, pack_ticket
from common.models.heads import Head
from common.models.tail_weights import TailWeights
from deltamask_client.answer import Answer
from deltamask_client.methods.base import ClientMethod
from deltamask_client.methods.fedavg.client import evaluate_weights
from deltamask_client.methods.fedavg.training import train_weights
from deltamask_client.methods.lotteryfl.pruning import prune
from deltamask_client.methods.lotteryfl.store import Ticket, TicketStore
from deltamask_client.objective import optimiser_of
from deltamask_client.personal import personal_test
from deltamask_client.site import Site, load_site, progress_of, recipe_of

__all__ = ["LotteryClient"]


class LotteryClient(ClientMethod):
    """Prune and rewind if the global weights kept are good enough, and train what is kept."""

    name: ClassVar[str] = "lotteryfl"

    def __init__(self, run: RunConfig, node: NodeConfig, run_id: int) -> None:
        super().__init__(run, node, run_id)
        self._store = TicketStore(node.cache_path, node.partition_id, run_id)

    def holds(self) -> bytes | None:
        """Digest of the mask on the disk."""
        ticket = self._store.load()
        return None if ticket is None else mask_digest(ticket.kept)

    def train(self, message: RecordDict) -> Answer:
        """Prune and rewind if the global weights kept are good enough, train what is kept, and send it."""
        run, keys = self.run, self.run[LotterySection]
        server_round, slot = unpack_round(message)
        site, found, ticket = self._receive(message)
        backbone, shape = site.backbone, (len(site.classes), site.backbone.features)
        tail = TailWeights(backbone)
        weights = found.weights
        if self._accuracy(site, weights) > keys.lottery_accuracy:
            density = run[DensitySection].density
            kept = prune(weights, ticket.kept, _prunable(tail, *shape), keys.lottery_step, density)
            if kept is not ticket.kept:
                ticket = replace(ticket, kept=kept)
                weights = np.where(kept, join_weights(tail.read(), ticket.initial_head), np.float32(0))
        result = train_weights(
            backbone,
            split_weights(weights, *shape)[1],
            site.activations,
            site.labels,
            weights[: tail.count],
            recipe_of(run, self.node, optimiser_of(run, run[WeightTrainingSection].weight_learning_rate)),
            seed=self.training_seed(server_round),
            kept=ticket.kept,
            progress=progress_of(run, site, server_round),
        )
        with tail.borrowed(result.tail):
            personal = personal_test(run, self.node, server_round, site, result.head)
        trained = join_weights(result.tail, result.head)
        payload = pack_ticket(trained, ticket.kept, server_round, slot, found.digest)
        holds = mask_digest(ticket.kept) if self._store.save(ticket) else None
        return Answer(site, result.fit, {"payload": payload}, holds, personal)

    def evaluate(self, message: RecordDict, server_round: int) -> Answer:
        """Loss and accuracy of the global weights that this client keeps, on the images held out."""
        site, found, _ = self._receive(message, validation=True)
        tail, head = split_weights(found.weights, len(site.classes), site.backbone.features)
        return Answer.of(site, evaluate_weights(self.run, site, tail, head), self.holds())

    def _receive(self, message: RecordDict, validation: bool = False) -> tuple[Site, Global, Ticket]:
        """Site, the global weights (0 where they are pruned here), and the client's ticket: of all weights, if it has
        none on its disk.
        """
        held = self._store.load()
        site = self.site(message, held.classes if held else (), validation)
        shape = len(site.classes), site.backbone.features
        tail_count = TailWeights(site.backbone).count
        kept = held.kept if held else np.ones(tail_count + Head.size(*shape) // 4, np.bool_)
        limits = {
            "weights": Part(global_bytes(tail_count, *shape)),
            "head": Part(Head.size(*shape), required=False),
        }
        parts = unpack_model(message, limits)
        head = Head.from_bytes(parts["head"], *shape) if "head" in parts else None
        found = unpack_global_weights(parts["weights"], head, kept, tail_count, *shape)
        if found.initial_head is not None:
            ticket = Ticket(kept, found.initial_head, site.classes)
        elif held is not None:
            ticket = held
        else:
            raise WrongModel("the server sent no head to rewind to, and this client holds none")
        return site, replace(found, weights=np.where(kept, found.weights, np.float32(0))), ticket

    def _accuracy(self, site: Site, weights: NDArray[np.float32]) -> float:
        """Accuracy on the images held out, as in the paper; on those trained on where none are."""
        held_out = site
        if self.run.data.validation_fraction:
            held_out = load_site(self.run, self.node, site.classes, validation=True)
        judge = held_out if len(held_out.labels) else site
        return evaluate_weights(
            self.run, judge, *split_weights(weights, len(site.classes), site.backbone.features)
        ).accuracy


def _prunable(tail: TailWeights, classes: int, features: int) -> NDArray[np.bool_]:
    """Weights of Linear and Conv2d layers, the head's among them; no biases and norms."""
    return np.concatenate([tail.masked, np.ones(classes * features, np.bool_), np.zeros(classes, np.bool_)])
