"""LotteryFL: every client trains and sends its own pruned part of the network, which costs fewer bytes each way.

Li et al.: LotteryFL: Personalized and Communication-Efficient Federated Learning with Lottery Ticket Hypothesis on
Non-IID Datasets, arXiv 2008.03371, algorithm 1, on the weights that `FedAvg` trains. docs/algorithm.md says what is
theirs and what is our choice.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.messages import Part, Parts, Update
from common.methods.lotteryfl.downwards import pack_everything, pack_kept
from common.methods.lotteryfl.ticket import mask_digest, pack_mask, ticket_bytes, unpack_mask, unpack_ticket
from common.models.heads import Head
from common.saved import Saved
from deltamask_server.enrolment import Enrolment
from deltamask_server.fixed_point import FixedPointMean
from deltamask_server.methods.fedavg.strategy import FedAvg

__all__ = ["LotteryFL"]


class LotteryFL(FedAvg):
    """Mean of each weight over the clients that keep it, by examples; a weight that nobody keeps stays as it is.

    Which weights are pruned, and when, is the clients' business: the server takes any mask. It remembers those that
    clients hold, a bit for each weight, and sends these clients what they keep.

    Parameters
    ----------
    enrolment
        Knows which clients are connected, and the digests of their masks.
    options
        What `FedAvg` takes.
    """

    name: ClassVar[str] = "lotteryfl"

    def __init__(self, enrolment: Enrolment, **options: Any) -> None:
        super().__init__(enrolment, **options)
        self._masks: dict[bytes, NDArray[np.uint8]] = {}  # digest -> mask that was accepted, packed
        self._initial_head: Head | None = None  # None until a round has replaced the head

    def parts(self, held: bytes | None) -> dict[str, bytes]:
        """What the client keeps, if its mask is known; otherwise everything: the tail, the head, and the head that
        pruning goes back to.
        """
        mask = None if held is None else self._masks.get(held)
        if mask is None:
            everything = pack_everything(self._tail, self._initial_head or self.head, self.digest)
            return {"weights": everything, "head": self.head.to_bytes()}
        return {"weights": pack_kept(self.weights, unpack_mask(mask, self.count), self.digest)}

    def expected(self, server_round: int) -> Parts:
        """At most a mask of ones, and every weight."""
        return {"payload": Part(ticket_bytes(self.count))}

    def begin_round(self, server_round: int) -> None:
        """Start the sums."""
        super().begin_round(server_round)
        self._mean = FixedPointMean(self.count, len(self._slots), partial=True)

    def accept(self, update: Update, server_round: int, slot: int) -> None:
        """Add what one client keeps, as often as it has examples, and remember its mask."""
        kept, values = unpack_ticket(update.parts["payload"], self.count, server_round, slot, self._base)
        self._mean.add(values, self.counted(update, slot), kept)
        self._masks[mask_digest(kept)] = pack_mask(kept)

    def end_round(self, server_round: int) -> None:
        """The mean becomes the global model; masks that nobody holds any more are forgotten."""
        self._initial_head = self._initial_head or self.head
        super().end_round(server_round)
        held = set(self._enrolment.holds.values())
        self._masks = {digest: mask for digest, mask in self._masks.items() if digest in held}

    def method_state(self) -> Saved:
        """The tail, the first head, and the masks that clients hold."""
        masks = {f"mask-{digest.hex()}": mask for digest, mask in self._masks.items()}
        head = self._initial_head
        first = Saved() if head is None else Saved({"weight": head.weight, "bias": head.bias})
        return super().method_state() | Saved({**masks}) | first.under("initial-head")

    def load_method_state(self, saved: Saved) -> None:
        """Go on from there."""
        super().load_method_state(saved)
        first = saved.part("initial-head").arrays
        self._initial_head = Head(first["weight"], first["bias"]) if first else None
        masks = {name.removeprefix("mask-"): mask for name, mask in saved.arrays.items() if name.startswith("mask-")}
        self._masks = {bytes.fromhex(name): mask for name, mask in masks.items()}

    def summary(self) -> None:
        """Print what this strategy is."""
        print(f"LotteryFL: {self.count:,} trained parameters in float32, less by client, quorum {self._closing.quorum}")
