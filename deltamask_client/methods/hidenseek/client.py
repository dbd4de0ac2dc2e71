"""HideNseek on a client: the subnetwork and signs from the server's message and its disk, and back as encoded signs."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from common.config.node import NodeConfig
from common.config.run import RunConfig
from common.downlink import apply_chain, max_chain_bytes
from common.errors import WrongModel
from common.messages import Part, unpack_model, unpack_round
from common.methods.fedavg.payload import pack_empty, pack_weights, read_weights, weights_digest
from common.methods.hidenseek.config import HideNseekSection, SignSection
from common.methods.hidenseek.sign_network import SignNetwork, network_segments, network_weights
from common.methods.hidenseek.signs import (
    SIGNS,
    SignState,
    as_floats,
    encode_signs,
    initial_scores,
    on_grid,
    positive_signs,
)
from common.methods.hidenseek.subnetwork import Subnetwork, max_subnetwork_bytes
from common.models.accuracy import score_images
from common.models.heads import Head
from common.theta import Version
from deltamask_client.answer import Answer
from deltamask_client.methods.base import ClientMethod, head_from
from deltamask_client.methods.hidenseek.store import Held, SignStore
from deltamask_client.methods.hidenseek.training import train_signs
from deltamask_client.objective import optimiser_of
from deltamask_client.personal import personal_test
from deltamask_client.site import Site, progress_of, recipe_of

__all__ = ["HideNseekClient"]


class _Received(NamedTuple):
    """The global model, and where it is to be trained."""

    site: Site
    network: SignNetwork
    kept_segments: tuple[int, ...]
    held: Held
    scores: NDArray[np.float32] | None
    """Global scores ``(n,)``, where these travel instead of signs."""


class HideNseekClient(ClientMethod):
    """Train the signs of the weights that the server has kept."""

    name: ClassVar[str] = "hidenseek"

    def __init__(self, run: RunConfig, node: NodeConfig, run_id: int) -> None:
        super().__init__(run, node, run_id)
        self._store = SignStore(node.cache_path, node.partition_id, run_id)
        self._keys = run[HideNseekSection]

    def holds(self) -> bytes | None:
        """Digest of the signs on the disk."""
        held = self._store.load()
        return None if held is None else held.signs.digest

    def train(self, message: RecordDict) -> Answer:
        """Train the signs of the kept weights from the global ones, and encode them."""
        run, seed, client = self.run, self.run.rounds.seed, self.node.partition_id
        server_round, slot = unpack_round(message)
        site, network, kept_segments, held, scores = self._receive(message)
        if scores is None:
            positive = positive_signs(held.signs.theta)
            scores = initial_scores(positive, self._keys.score_init, seed, server_round, client)
        result = train_signs(
            site.backbone,
            network,
            held.head,
            site.activations,
            site.labels,
            scores,
            recipe_of(run, self.node, optimiser_of(run, self._keys.sign_learning_rate)),
            seed=self.training_seed(server_round),
            progress=progress_of(run, site, server_round),
        )
        personal = personal_test(run, self.node, server_round, site, network.logits)
        if self._keys.local_only:  # its own signs take the place of the global ones, and nothing is sent
            own = held._replace(signs=Version(on_grid(result.positive)))
            empty = pack_empty(SIGNS, server_round, slot)
            return Answer(site, result.fit, {"payload": empty}, self._kept(own), personal)
        if self._keys.upload == "scores":
            payload = pack_weights(result.scores, server_round, slot, weights_digest(scores), SIGNS)
            return Answer(site, result.fit, {"payload": payload}, None, personal)
        shared = SignState.of(held.signs, seed, server_round, slot, kept_segments)
        payload = encode_signs(result.positive, shared, run[SignSection].sign_codec)
        return Answer(site, result.fit, {"payload": payload}, self._kept(held), personal)

    def evaluate(self, message: RecordDict, server_round: int) -> Answer:
        """Loss and accuracy of the global signs on the images held out."""
        site, network, _, held, scores = self._receive(message, validation=True)
        network.load(held.head, as_floats(positive_signs(held.signs.theta)) if scores is None else scores)
        batch_size = self.run.evaluation.eval_batch_size
        scored = score_images(site.backbone.tail, network.logits, site.activations, site.labels, batch_size)
        return Answer.of(site, scored, self._kept(held) if scores is None else None)

    def _kept(self, held: Held) -> bytes | None:
        """Keep signs, and say which; None if the disk does not take them."""
        return held.signs.digest if self._store.save(held) else None

    def _receive(self, message: RecordDict, validation: bool = False) -> _Received:
        held = self._store.load()
        site = self.site(message, held.classes if held else (), validation)
        shape = len(site.classes), site.backbone.features
        most = site.backbone.masks.d + shape[0] * shape[1]
        sends_scores = self._keys.upload == "scores"
        limits = {
            "scores" if sends_scores else "signs": Part(max_chain_bytes(most)),
            "head": Part(Head.size(*shape), required=False),
            "subnetwork": Part(max_subnetwork_bytes(most), required=False),
        }
        parts = unpack_model(message, limits)
        head = head_from(parts.get("head"), held and held.head, *shape)
        packed = parts.get("subnetwork", held.subnetwork if held else b"")
        if not packed:
            raise WrongModel("the server sent no subnetwork, and this client holds none")
        signed_head = None if self.run.head_kind.fitted else head
        subnetwork, prepared = Subnetwork.from_bytes(
            packed,
            network_weights(site.backbone, signed_head),
            network_segments(site.backbone, signed_head),
            self._keys.sign_magnitudes,
        )
        network = SignNetwork(site.backbone, subnetwork, prepared)
        segments = subnetwork.kept_segments
        if sends_scores:
            none = Held(Version(np.zeros(0, np.uint16)), head, site.classes, packed)
            return _Received(site, network, segments, none, read_weights(parts["scores"], subnetwork.n))
        if self._keys.local_only and held is not None:
            signs = held.signs
        else:
            before = held and held.signs
            signs = apply_chain(parts["signs"], before, subnetwork.n, self.run.rounds.seed, segments)
        return _Received(site, network, segments, Held(signs, head, site.classes, packed), None)
