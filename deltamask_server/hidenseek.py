"""HideNseek as a Flower Strategy: a network pruned once, whose clients learn the signs of what is left.

Vallapuram et al.: HideNseek: Federated Lottery Ticket via Server-side Pruning and Sign Supermask, arXiv 2206.04385.
Only what its abstract says is known to us (server-side pruning at initialisation, without data, by synaptic saliency;
clients optimise a sign mask that multiplies the unpruned weights); the rest is our choice, see docs/hidenseek.md.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from common.codecs import codec_of
from common.downlink import join_chain, pack_same
from common.messages import Update, pack_global
from common.models import Backbone
from common.models.heads.random_head import RANDOM_HEAD
from common.models.sign_network import SignNetwork, network_segments, network_weights
from common.models.subnetwork import Magnitudes, Subnetwork
from common.signs import SignState, as_floats, initial_scores, positive_signs, signs_to_theta
from common.theta import theta_digest
from common.weights_payload import unpack_weights, weights_bytes, weights_digest
from common.wire import METHODS, PLAIN, Header, max_payload_bytes, unpack_payload
from deltamask_server.downlink import Downlink
from deltamask_server.enrolment import Enrolment
from deltamask_server.evaluation import Evaluator
from deltamask_server.fixed_point import FixedPointMean
from deltamask_server.rounds import RoundStrategy

__all__ = ["HideNseek"]

_METHOD = METHODS["hidenseek"]


class HideNseek(RoundStrategy):
    """Signs by votes, with a memory.

    Each round, the mean of the clients' signs enters an exponential moving average, and a global sign turns where more
    than a share of that average is against it: half, or less (our choice), since many clients with different classes
    turn different signs, a few each round, and a majority hardly ever meets. Sums are integers, so that the order of
    replies does not matter.

    Parameters
    ----------
    enrolment
        Knows which clients are connected.
    backbone
        The frozen network; its masks are overwritten.
    kept
        What pruning leaves of the weights, bool ``(d,)``: the masked ones of the backbone, and of a random head.
    magnitudes
        ``own`` or ``constant``, see `common.models.subnetwork`.
    momentum
        Share of the old average in the new one, in [0, 1); 0 has no memory. The first average is the first signs.
    turn_share
        Of the average, in [0, 0.5]; 0.5 is the majority. What is equal to it leaves a sign as it is.
    by_examples
        Whether a client counts as often as it has examples, or once.
    upload
        ``signs``, or as an ablation ``scores``: float32, averaged, and sent back.
    score_init
        Scores that travel have random sizes up to this at the start, as clients' have in each round where signs do.
    local_only
        The control: clients go on from their own signs, and send nothing.
    options
        What `RoundStrategy` takes.
    """

    def __init__(
        self,
        enrolment: Enrolment,
        *,
        backbone: Backbone,
        kept: NDArray[np.bool_],
        magnitudes: Magnitudes = "own",
        momentum: float = 0.0,
        turn_share: float = 0.5,
        by_examples: bool = True,
        upload: Literal["signs", "scores"] = "signs",
        score_init: float = 0.1,
        local_only: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(enrolment, **options)
        signed_head = self.head if self._head_name == RANDOM_HEAD else None
        self._subnetwork = Subnetwork(kept, network_segments(backbone, signed_head))
        prepared = self._subnetwork.prepare(network_weights(backbone, signed_head), magnitudes)
        self._packed = self._subnetwork.to_bytes(prepared)
        self._network = SignNetwork(backbone, self._subnetwork, prepared)
        self._momentum, self._turn_share, self._by_examples = momentum, turn_share, by_examples
        self._upload, self._local_only = upload, local_only
        n = self._subnetwork.n
        self.theta = signs_to_theta(np.ones(n, np.bool_))
        """Global signs, `common.signs`; all +1 at the start."""
        self._average = np.ones(n)
        if upload == "scores":
            self._scores = initial_scores(positive_signs(self.theta), score_init, self._seed, 0, 0)
        self._mean = FixedPointMean(n)
        self._downlink = Downlink("exact", self._subnetwork.kept_segments, self._seed, self.theta)

    @property
    def segments(self) -> tuple[int, ...]:
        """Sizes of the tensors before pruning."""
        return self._subnetwork.segments

    @property
    def n(self) -> int:
        """Kept weights."""
        return self._subnetwork.n

    @property
    def digest(self) -> bytes:
        """Of the global signs, or scores."""
        return weights_digest(self._scores) if self._upload == "scores" else theta_digest(self.theta)

    def message(self, held: bytes | None) -> bytes:
        """A chain of versions of the signs, from the one held; or scores."""
        if self._upload == "scores":
            return self._scores.astype("<f4").tobytes()
        if self._local_only and held is not None:
            return join_chain([pack_same(self.theta)])  # of no use to a client that holds signs of its own
        return self._downlink.message(held)

    def arrays(self) -> ArrayRecord:
        """With the subnetwork, for clients that hold nothing."""
        return pack_global(self.message(None), self.head, self._packed)

    @property
    def max_payload_bytes(self) -> int:
        """Of the codecs, or of scores."""
        return max(max_payload_bytes(self.n), weights_bytes(self.n))

    def begin_round(self, server_round: int) -> None:
        """Start a mean."""
        self._mean = FixedPointMean(self.n)

    def accept(self, update: Update, server_round: int, slot: int) -> None:
        """Decode one client's signs, or scores, and add them."""
        if self._local_only:
            unpack_payload(update.payload, Header(PLAIN, server_round, slot, 0, 0, bytes(8), _METHOD))
            return
        if self._upload == "scores":
            found = unpack_weights(update.payload, self.n, server_round, slot, self.digest, _METHOD)
        else:
            shared = SignState(self.theta, self._seed, server_round, slot, self._subnetwork.kept_segments)
            found = as_floats(codec_of(update.payload).decode(update.payload, shared))
        self._mean.add(found, update.examples if self._by_examples else 1)

    def end_round(self, server_round: int) -> None:
        """Turn the signs that enough of the moving average is against."""
        if self._local_only:
            return
        if self._upload == "scores":
            self._scores = self._mean.mean(self._scores)
            self.theta = signs_to_theta(self._scores >= 0)
            return
        old = positive_signs(self.theta)
        mean = self._mean.mean(as_floats(old)).astype(np.float64)
        self._average = self._momentum * self._average + (1 - self._momentum) * mean
        against = (1 - self._average * as_floats(old)) / 2
        self.theta = signs_to_theta(old ^ (against > self._turn_share))
        self._downlink.publish(self.theta, server_round)

    def evaluate(self, evaluator: Evaluator, server_round: int) -> dict[str, float]:
        """Accuracy of the global signs."""
        return {"mean": evaluator.signs(self._network, self.head, positive_signs(self.theta))}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Signs of the kept weights (uint8, 1 is +1), and the subnetwork as it travels (uint8)."""
        return {
            "signs": torch.from_numpy(positive_signs(self.theta).astype(np.uint8)),
            "subnetwork": torch.from_numpy(np.frombuffer(self._packed, np.uint8).copy()),
        }

    def summary(self) -> None:
        """Print what this strategy is."""
        total = sum(self.segments)
        print(
            f"HideNseek: {self.n:,} of {total:,} weights kept ({100 * self.n / total:.2f} %) in {len(self.segments)} "
            f"tensors, quorum {self._quorum}" + (", local only: nothing is sent" if self._local_only else "")
        )
