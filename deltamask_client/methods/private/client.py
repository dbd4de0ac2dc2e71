"""Private DeltaMask on a client: one gradient of each image, and a bit for each position asked for."""

from __future__ import annotations

import logging
from typing import ClassVar

import numpy as np
import torch
from flwr.app import RecordDict

from common.config.node import NodeConfig
from common.config.run import RunConfig
from common.digest import digest8
from common.errors import ConfigError
from common.messages import unpack_round
from common.methods.private.accountant import FURTHEST, Budget, bits_scale
from common.methods.private.config import PrivacySection
from common.methods.private.response import pack_responses
from common.models.heads import FittedHead
from common.models.heads.moment_head import MomentHead
from common.models.heads.moments import pack_moments
from common.subset import share_code, subset
from deltamask_client.answer import Answer
from deltamask_client.methods.deltamask.client import DeltaMaskClient
from deltamask_client.methods.private.gradients import mean_direction
from deltamask_client.methods.private.ledger import Ledger
from deltamask_client.methods.private.noise import Noise
from deltamask_client.methods.private.statistics import noisy_moments, usual_length
from deltamask_client.site import Site, progress_of

__all__ = ["PrivateClient"]

_log = logging.getLogger("flwr")


class PrivateClient(DeltaMaskClient):
    """Answer by randomised response, and count what it costs."""

    name: ClassVar[str] = "private"
    private: ClassVar[bool] = True

    def __init__(self, run: RunConfig, node: NodeConfig, run_id: int) -> None:
        super().__init__(run, node, run_id)
        self._budget = Budget.from_config(run)
        self._ledger = Ledger(
            node.account_path, node.partition_id, run_id, self._budget.total, self._budget.delta, node.privacy_limit
        )

    def measure(self, kind: FittedHead, site: Site, features: torch.Tensor) -> Answer:
        """The statistics of the head, with noise."""
        assert isinstance(kind, MomentHead), f"a head of kind {kind.name} has no moments"

        def measured() -> bytes:
            moments = noisy_moments(
                features.cpu().numpy(),
                site.labels,
                len(site.classes),
                matrix=kind.matrix,
                radius=usual_length(site.backbone),
                rho=self._budget.head,
                noise=self._noise("head"),
            )
            return pack_moments(moments)

        question = digest8("\n".join([kind.name, site.backbone.digest.hex(), *site.classes]).encode())
        statistics = self._ledger.answer("head", question, self._budget.head, measured)
        return Answer(site, None, {"statistics": statistics})

    def train(self, message: RecordDict) -> Answer:
        """One bit for each of the round's positions."""
        run, keys = self.run, self.run[PrivacySection]
        server_round, slot = unpack_round(message)
        site, version, head, holds = self._receive(message)
        positions = subset(len(version.theta), share_code(keys.response_share), run.rounds.seed, server_round)

        def responded() -> bytes:
            direction = mean_direction(
                site.backbone,
                head,
                site.activations,
                site.labels,
                version.theta,
                positions,
                progress_of(run, site, server_round),
            )
            x = np.clip(bits_scale(len(site.labels), self._budget.round) * direction, -FURTHEST, FURTHEST)
            return np.packbits(self._noise(str(server_round)).bits(0.5 + x)).tobytes()

        question = digest8(version.digest + head.to_bytes())
        answer = self._ledger.answer(str(server_round), question, self._budget.round, responded)
        bits = np.unpackbits(np.frombuffer(answer, np.uint8), count=len(positions)).view(np.bool_)
        payload = pack_responses(bits, version, server_round, slot)
        spent, ever = self._ledger.epsilon()
        _log.info("privacy: epsilon %.3g in this run so far, %.3g in all runs of this client", spent, ever)
        return Answer(site, None, {"payload": payload}, holds)

    def evaluate(self, message: RecordDict, server_round: int) -> Answer:
        """Nobody is told how good a model is on this client's images."""
        raise ConfigError("method = 'private': clients do not say how good a model is on their images")

    def _noise(self, name: str) -> Noise:
        return Noise(self.node.noise_seed, f"{self.run.rounds.seed}/{self.node.partition_id}/{name}")
