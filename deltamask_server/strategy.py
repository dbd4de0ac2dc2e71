"""DeltaMask as a Flower Strategy: send theta, decode the clients' deltas one by one, fold the masks into a Beta
posterior.

Tsouvalas, Asano, Saeed: Federated Fine-Tuning of Foundation Models via Probabilistic Masking, arXiv 2311.17299,
algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.codecs import SharedState, codec_of
from common.messages import Update
from common.models import Head
from common.models.heads.linear_probe import average_heads
from common.posterior import empty_posterior, fold, is_reset_round, mode
from common.theta import quantise, theta_digest
from common.wire import max_payload_bytes
from deltamask_server.downlink import Downlink
from deltamask_server.enrolment import Enrolment
from deltamask_server.evaluation import Evaluator
from deltamask_server.rounds import RoundStrategy

__all__ = ["DeltaMask"]


class DeltaMask(RoundStrategy):
    """Bayesian aggregation of probabilistic masks.

    Parameters
    ----------
    enrolment
        Knows which clients are connected.
    segments
        Sizes of the masked tensors; d is their sum.
    downlink
        How theta travels: ``float32``, ``quantised``, ``exact`` or ``relay``.
    initial_theta, theta_clip, prior
        See `common.config.RunConfig`.
    frozen_head_rounds
        Rounds that leave the head as it is; in later ones clients train it too.
    options
        What `RoundStrategy` takes.
    """

    def __init__(
        self,
        enrolment: Enrolment,
        *,
        segments: Sequence[int],
        downlink: str = "exact",
        initial_theta: float = 0.95,
        theta_clip: float = 0.01,
        prior: float = 1.0,
        frozen_head_rounds: float = math.inf,
        **options: Any,
    ) -> None:
        super().__init__(enrolment, **options)
        self._segments = tuple(segments)
        self._theta_clip, self._prior = theta_clip, prior
        self.theta: NDArray[np.uint16] = np.full(self.d, quantise(initial_theta), dtype=np.uint16)
        self._downlink = Downlink(downlink, self._segments, self._seed, self.theta, theta_clip)
        self._posterior = self._start = self._folded = empty_posterior(self.d, prior)
        self._payloads: dict[int, bytes] = {}  # slot -> accepted payload of this round
        self._frozen_head_rounds = frozen_head_rounds
        self._heads: dict[int, tuple[Head, int]] = {}  # slot -> head trained in this round, and its examples

    @property
    def d(self) -> int:
        """Masked weights."""
        return sum(self._segments)

    @property
    def digest(self) -> bytes:
        """Of theta."""
        return theta_digest(self.theta)

    def message(self, held: bytes | None) -> bytes:
        """A chain of versions of theta, from the one held."""
        return self._downlink.message(held)

    @property
    def max_payload_bytes(self) -> int:
        """The wire format's limit."""
        return max_payload_bytes(self.d)

    def trains_head(self, server_round: int) -> bool:
        """In the last rounds, if the run says so."""
        return server_round > self._frozen_head_rounds

    def begin_round(self, server_round: int) -> None:
        """Start from the prior, or from what earlier rounds have counted."""
        reset = is_reset_round(server_round, self._participation)
        # `_posterior` is replaced at the end only: a round without quorum leaves it as it was.
        self._start = empty_posterior(self.d, self._prior) if reset else self._posterior
        self._folded, self._payloads, self._heads = self._start, {}, {}

    def accept(self, update: Update, server_round: int, slot: int) -> None:
        """Decode the client's mask and count it, and keep its head where that is trained."""
        # Before anything is folded: of a reply everything counts, or nothing.
        head = None if update.head is None else Head.from_bytes(update.head, self._classes, self._features)
        shared = SharedState(self.theta, self._seed, server_round, slot, self._segments)
        self._folded = fold(self._folded, codec_of(update.payload).decode(update.payload, shared))
        self._payloads[slot] = update.payload
        if head is not None:
            self._heads[slot] = head, update.examples

    def end_round(self, server_round: int) -> None:
        """Theta is the posterior's mode, the head the mean of those trained, by examples."""
        self._posterior = self._folded
        self.theta = mode(self._posterior, self._theta_clip)
        if self.trains_head(server_round):
            # In the order of slots: a sum of floats depends on its order, and arrival is chance.
            self.head = average_heads([self._heads[slot] for slot in sorted(self._heads)])
            self._head_trained = True
        self._downlink.publish(self.theta, server_round, self._payloads, self._start)

    def evaluate(self, evaluator: Evaluator, server_round: int) -> dict[str, float]:
        """Accuracies of the weights times theta, times a sampled mask, and times a thresholded one."""
        return evaluator.mask_forms(self.theta, self.head, self._seed, server_round)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Theta (uint16 grid)."""
        return {"theta": torch.from_numpy(self.theta.astype(np.int32)).to(torch.uint16)}

    def summary(self) -> None:
        """Print what this strategy is."""
        print(f"DeltaMask: {self.d:,} masked weights in {len(self._segments)} tensors, quorum {self._quorum}")
