"""Federated averaging in float32: full fine-tuning of the same blocks, which compressed training is judged by.

McMahan et al.: Communication-Efficient Learning of Deep Networks from Decentralized Data, arXiv 1602.05629,
algorithm 1, on the parameters of the last blocks and the head, starting from the fitted head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.messages import Update
from common.models import Head
from common.weights_payload import join_weights, unpack_weights, weights_bytes, weights_digest
from deltamask_server.enrolment import Enrolment
from deltamask_server.evaluation import Evaluator
from deltamask_server.fixed_point import FixedPointMean
from deltamask_server.rounds import RoundStrategy

__all__ = ["FedAvg"]


class FedAvg(RoundStrategy):
    """Mean of the clients' weights, by examples (`FixedPointMean`).

    Parameters
    ----------
    enrolment
        Knows which clients are connected.
    tail
        Pre-trained parameters of the blocks, float32 ``(count,)``.
    options
        What `RoundStrategy` takes.
    """

    def __init__(self, enrolment: Enrolment, *, tail: NDArray[np.float32], **options: Any) -> None:
        super().__init__(enrolment, **options)
        self._tail = tail
        self._mean = FixedPointMean(0)

    @property
    def count(self) -> int:
        """Trained parameters, head included."""
        return len(self._tail) + self._classes * (self._features + 1)

    @property
    def weights(self) -> NDArray[np.float32]:
        """Tail and head as they travel."""
        return join_weights(self._tail, self.head)

    @property
    def digest(self) -> bytes:
        """Of tail and head."""
        return weights_digest(self.weights)

    def message(self, held: bytes | None) -> bytes:
        """The tail as float32; the head travels beside it. Clients keep nothing."""
        return self._tail.astype("<f4").tobytes()

    @property
    def max_payload_bytes(self) -> int:
        """Every payload has this size."""
        return weights_bytes(self.count)

    def begin_round(self, server_round: int) -> None:
        """Start a sum."""
        self._mean, self._base = FixedPointMean(self.count), self.digest

    def accept(self, update: Update, server_round: int, slot: int) -> None:
        """Add one client's weights, as often as it has examples."""
        weights = unpack_weights(update.payload, self.count, server_round, slot, self._base)
        self._mean.add(weights, update.examples)

    def end_round(self, server_round: int) -> None:
        """The mean becomes the global model."""
        self._tail, head = np.split(self._mean.mean(otherwise=self.weights), [len(self._tail)])
        self.head = Head.from_bytes(head.astype("<f4").tobytes(), self._classes, self._features)

    def evaluate(self, evaluator: Evaluator, server_round: int) -> dict[str, float]:
        """Accuracy of the averaged weights."""
        return {"mean": evaluator.weights(self._tail, self.head)}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tail's parameters, in its module's order."""
        return {"tail": torch.from_numpy(self._tail)}

    def summary(self) -> None:
        """Print what this strategy is."""
        print(f"FedAvg: {self.count:,} trained parameters in float32, quorum {self._quorum}")
