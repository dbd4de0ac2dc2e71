"""FedAvg on a client: weights in, weights out; nothing is kept between rounds."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from common.config.run import RunConfig
from common.config.shared import CalibrationSection
from common.errors import WrongModel
from common.messages import Part, unpack_model, unpack_round
from common.methods.fedavg.config import WeightTrainingSection
from common.methods.fedavg.payload import pack_weights, weights_digest
from common.methods.fedavg.vector import join_weights
from common.models.accuracy import Scored, score_images
from common.models.heads import Head
from common.models.tail_weights import TailWeights
from deltamask_client.answer import Answer
from deltamask_client.methods.base import ClientMethod
from deltamask_client.methods.fedavg.training import train_weights
from deltamask_client.objective import Objective, calibrated, optimiser_of
from deltamask_client.personal import personal_test
from deltamask_client.site import Site, progress_of, recipe_of

__all__ = ["FedAvgClient", "evaluate_weights"]


class FedAvgClient(ClientMethod):
    """Train every parameter of the last blocks, and the head."""

    name: ClassVar[str] = "fedavg"

    def holds(self) -> bytes | None:
        """Nothing."""
        return None

    def train(self, message: RecordDict) -> Answer:
        """Train all parameters of the last blocks and the head, and send them."""
        run = self.run
        server_round, slot = unpack_round(message)
        site, tail, head, base = self._receive(message)
        result = train_weights(
            site.backbone,
            head,
            site.activations,
            site.labels,
            tail,
            recipe_of(
                run,
                self.node,
                optimiser_of(run, run[WeightTrainingSection].weight_learning_rate),
                Objective(calibrated(site.labels, len(site.classes), run[CalibrationSection].calibration)),
            ),
            seed=self.training_seed(server_round),
            progress=progress_of(self.run, site, server_round),
        )
        with TailWeights(site.backbone).borrowed(result.tail):
            personal = personal_test(self.run, self.node, server_round, site, result.head)
        payload = pack_weights(join_weights(result.tail, result.head), server_round, slot, base)
        return Answer(site, result.fit, {"payload": payload}, None, personal)

    def evaluate(self, message: RecordDict, server_round: int) -> Answer:
        """Loss and accuracy of the global weights on the images held out."""
        site, tail, head, _ = self._receive(message, validation=True)
        return Answer.of(site, evaluate_weights(self.run, site, tail, head))

    def _receive(self, message: RecordDict, validation: bool = False) -> tuple[Site, NDArray[np.float32], Head, bytes]:
        """Site, parameters of the blocks, head, and the digest of both."""
        site = self.site(message, (), validation)
        shape = len(site.classes), site.backbone.features
        count = TailWeights(site.backbone).count
        parts = unpack_model(message, {"weights": Part(4 * count), "head": Part(Head.size(*shape))})
        if len(parts["weights"]) != 4 * count:
            raise WrongModel(f"{len(parts['weights'])} bytes of weights; {4 * count} are needed")
        head = Head.from_bytes(parts["head"], *shape)
        tail = np.frombuffer(parts["weights"], "<f4").astype(np.float32)
        return site, tail, head, weights_digest(join_weights(tail, head))


def evaluate_weights(run: RunConfig, site: Site, tail: NDArray[np.float32], head: Head) -> Scored:
    """How good weights are on a site's images."""
    batch_size = run.evaluation.eval_batch_size
    with TailWeights(site.backbone).borrowed(tail):
        return score_images(site.backbone.tail, head, site.activations, site.labels, batch_size)
