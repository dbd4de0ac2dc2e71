"""DeltaMask on a client: theta from the server's message and its disk, and back as an encoded delta."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from flwr.app import RecordDict

from common.aggregation import RULES
from common.aggregation.config import AggregationSection
from common.aggregation.flips import FlipsSection
from common.codecs import CODECS, Codec
from common.codecs.base import Client
from common.codecs.config import CodecSection
from common.codecs.state import SharedState
from common.config.node import NodeConfig
from common.config.run import RunConfig
from common.config.shared import CalibrationSection
from common.downlink import apply_chain, max_chain_bytes
from common.gain import NARROWEST
from common.messages import Part, unpack_gain, unpack_model, unpack_round
from common.methods.deltamask.config import (
    STEP_IMAGES,
    DeltaMaskSection,
    GradientStepsSection,
    HeadTrainingSection,
    frozen_head_rounds,
    step_of,
)
from common.models.accuracy import logits_of, score_images
from common.models.heads import Head
from common.theta import Version, probabilities, scores
from deltamask_client.answer import Answer
from deltamask_client.methods.base import ClientMethod, head_from
from deltamask_client.methods.deltamask.scale import gradient_scale, share_of_step
from deltamask_client.methods.deltamask.store import Held, ThetaStore
from deltamask_client.methods.deltamask.training import train_masks
from deltamask_client.objective import Objective, OptimiserOf, adam, calibrated, remembering, sgd, vacant_classes
from deltamask_client.personal import personal_test
from deltamask_client.site import Site, device_of, progress_of, recipe_of

__all__ = ["DeltaMaskClient", "make_codec"]


class _Received(NamedTuple):
    """The global model of a message, kept for the next one, and the site whose classes its head has."""

    site: Site
    version: Version
    head: Head
    holds: bytes | None
    """Digest of the theta kept; None if the disk did not take it."""


class DeltaMaskClient(ClientMethod):
    """Train scores, and send which bits of a sampled mask changed."""

    name: ClassVar[str] = "deltamask"

    def __init__(self, run: RunConfig, node: NodeConfig, run_id: int) -> None:
        super().__init__(run, node, run_id)
        self._store = ThetaStore(node.cache_path, node.partition_id, run_id)

    def holds(self) -> bytes | None:
        """Digest of the theta on the disk."""
        held = self._store.load()
        return None if held is None else held.version.digest

    def train(self, message: RecordDict) -> Answer:
        """Train scores from the global theta, and encode which bits of a sampled mask changed."""
        run, keys = self.run, self.run[DeltaMaskSection]
        server_round, slot = unpack_round(message)
        site, version, head, holds = self._receive(message)
        trains_head = server_round > frozen_head_rounds(run)
        seed = self.training_seed(server_round)
        optimiser = self._optimiser(server_round, site, version, head, seed)
        objective = self._objective(site, version, head)
        result = train_masks(
            site.backbone,
            head,
            site.activations,
            site.labels,
            version.theta,
            recipe_of(run, self.node, optimiser, objective),
            seed=seed,
            sampled=keys.local_masks == "sample",
            penalty=keys.kl_penalty,
            head_learning_rate=run[HeadTrainingSection].head_finetune_learning_rate if trains_head else 0.0,
            progress=progress_of(run, site, server_round),
        )
        shared = SharedState.of(version, run.rounds.seed, server_round, slot, site.backbone.masks.segments)
        payload = make_codec(run, self.node, server_round, unpack_gain(message)).encode(result.theta, shared)
        site.backbone.masks.set_multiplier(torch.from_numpy(result.theta))
        personal = personal_test(run, self.node, server_round, site, result.head)
        parts = {"payload": payload} | ({"head": result.head.to_bytes()} if trains_head else {})
        return Answer(site, result.fit, parts, holds, personal)

    def evaluate(self, message: RecordDict, server_round: int) -> Answer:
        """The weights times theta on the images held out; of round 0, the head alone."""
        site, version, head, holds = self._receive(message, validation=True)
        if server_round == 0:
            site.backbone.masks.unmask()
        else:
            site.backbone.masks.set_multiplier(torch.from_numpy(probabilities(version.theta)))
        batch_size = self.run.evaluation.eval_batch_size
        return Answer.of(site, score_images(site.backbone.tail, head, site.activations, site.labels, batch_size), holds)

    def _objective(self, site: Site, version: Version, head: Head) -> Objective:
        """The run's loss, for the classes that the site has, and for those that it lacks."""
        run, classes = self.run, len(site.classes)
        loss = calibrated(site.labels, classes, run[CalibrationSection].calibration)
        vacant, strength = vacant_classes(site.labels, classes), run[DeltaMaskSection].vacant_distillation
        if strength and len(site.labels) and len(vacant):
            site.backbone.masks.set_multiplier(torch.from_numpy(probabilities(version.theta)))
            received = logits_of(site.backbone.tail, head, site.activations, run.evaluation.eval_batch_size)
            loss = remembering(loss, vacant, received, strength)
        return Objective(loss)

    def _optimiser(self, server_round: int, site: Site, version: Version, head: Head, seed: int) -> OptimiserOf:
        """The run's: Adam as it is, gradient steps by what suits this network, this site and its batches."""
        run, step = self.run, step_of(self.run, server_round)
        if run[DeltaMaskSection].score_optimiser == "adam":
            return adam(step)
        site.backbone.masks.load_scores(torch.from_numpy(scores(version.theta)), sampled=False)
        scale = gradient_scale(site.backbone, head, site.activations, seed)
        step *= share_of_step(site.labels)
        step *= (self.node.batch_size or run.training.batch_size) / STEP_IMAGES
        return sgd(step / scale, run[GradientStepsSection].score_momentum)

    def _receive(self, message: RecordDict, validation: bool = False) -> _Received:
        held = self._store.load()
        site = self.site(message, held.classes if held else (), validation)
        masks, shape = site.backbone.masks, (len(site.classes), site.backbone.features)
        limits = {"theta": Part(max_chain_bytes(masks.d)), "head": Part(Head.size(*shape), required=False)}
        parts = unpack_model(message, limits)
        version = apply_chain(parts["theta"], held and held.version, masks.d, self.run.rounds.seed, masks.segments)
        head = head_from(parts.get("head"), held and held.head, *shape)
        kept = self._store.save(Held(version, head, site.classes))
        return _Received(site, version, head, version.digest if kept else None)


def make_codec(run: RunConfig, node: NodeConfig, server_round: int, gain: float = 1.0) -> Codec:
    """The codec of one client in a round: its own, or the run's.

    The gain is what the server asks for. With another codec, it is as far from that one's first gain; with a budget of
    the client's own below the run's, it is as much larger as fits that, up to a factor of `NARROWEST`.
    """
    usual, codec = (CODECS[name] for name in (run[CodecSection].codec, node.codec or run[CodecSection].codec))
    counts_changes = RULES[run[AggregationSection].aggregation].observes == "change"
    if counts_changes:
        budget = run[FlipsSection].target_bpp
        narrow = max(1.0, budget / node.target_bpp) if budget and node.target_bpp else 1.0
        first, least, largest = codec.gains
        narrow = min(narrow ** (1 / codec.growth), NARROWEST)
        gain = min(max(gain * first / usual.gains[0] * narrow, least), largest)
    client = Client(server_round, node.target_bpp, device_of(node), counts_changes, gain)
    return codec.from_config(run, client)
