"""Federated averaging in float32: full fine-tuning of the same blocks, which compressed training is judged by.

McMahan et al.: Communication-Efficient Learning of Deep Networks from Decentralized Data, arXiv 1602.05629,
algorithm 1, on the parameters of the last blocks and the head, starting from the fitted head.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from common.messages import Part, Parts, Update
from common.methods.fedavg.payload import unpack_weights, weights_bytes, weights_digest
from common.methods.fedavg.vector import join_weights, split_weights
from common.models.accuracy import Scored
from common.models.heads import Head
from common.models.tail_weights import TailWeights
from common.saved import Saved
from deltamask_server.enrolment import Enrolment
from deltamask_server.evaluation import Evaluator
from deltamask_server.fixed_point import FixedPointMean
from deltamask_server.rounds import RoundStrategy
from deltamask_server.setting import Setting

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

    name: ClassVar[str] = "fedavg"

    def __init__(self, enrolment: Enrolment, *, tail: NDArray[np.float32], **options: Any) -> None:
        super().__init__(enrolment, **options)
        self._tail = tail
        self._mean = FixedPointMean(0)
        self._joined: tuple[NDArray[np.float32], Head, NDArray[np.float32], bytes] | None = None

    @classmethod
    def from_setting(cls, setting: Setting) -> Self:
        """From the backbone's own weights."""
        return cls(setting.enrolment, tail=TailWeights(setting.backbone).read(), **setting.options)

    @property
    def count(self) -> int:
        """Trained parameters, head included."""
        return len(self._tail) + self._classes * (self._features + 1)

    @property
    def weights(self) -> NDArray[np.float32]:
        """Tail and head as they travel."""
        return self._join()[0]

    @property
    def digest(self) -> bytes:
        """Of tail and head."""
        return self._join()[1]

    def parts(self, held: bytes | None) -> dict[str, bytes]:
        """Tail and head as float32. Clients keep nothing."""
        return {"weights": self._tail.astype("<f4").tobytes(), "head": self.head.to_bytes()}

    def expected(self, server_round: int) -> Parts:
        """Every payload has the same size."""
        return {"payload": Part(weights_bytes(self.count))}

    def begin_round(self, server_round: int) -> None:
        """Start a sum."""
        self._mean, self._base = FixedPointMean(self.count, len(self._slots)), self.digest

    def accept(self, update: Update, server_round: int, slot: int) -> None:
        """Add one client's weights, as often as it has examples."""
        weights = unpack_weights(update.parts["payload"], self.count, server_round, slot, self._base)
        self._mean.add(weights, self.counted(update, slot))

    def end_round(self, server_round: int) -> None:
        """The mean becomes the global model."""
        mean = self._mean.mean(otherwise=self.weights)
        self._tail, self.head = split_weights(mean, self._classes, self._features)

    def evaluate(self, evaluator: Evaluator, server_round: int) -> dict[str, Scored]:
        """Accuracy of the averaged weights."""
        with TailWeights(evaluator.backbone).borrowed(self._tail):
            return {"mean": evaluator.score(self.head)}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tail's parameters, in its module's order."""
        return {"tail": torch.from_numpy(self._tail)}

    def method_state(self) -> Saved:
        """The tail; the head is everybody's."""
        return Saved({"tail": self._tail})

    def load_method_state(self, saved: Saved) -> None:
        """Go on from that tail."""
        self._tail = saved.arrays["tail"]

    def summary(self) -> None:
        """Print what this strategy is."""
        print(f"FedAvg: {self.count:,} trained parameters in float32, quorum {self._closing.quorum}")

    def _join(self) -> tuple[NDArray[np.float32], bytes]:
        """Weights and digest; messages, rounds and reports ask for both, and they take a while where there are many."""
        known = self._joined
        if known is None or known[0] is not self._tail or known[1] is not self.head:
            weights = join_weights(self._tail, self.head)
            known = self._joined = self._tail, self.head, weights, weights_digest(weights)
        return known[2:]
