"""What a client of ``lotteryfl`` keeps between rounds, on its disk: which weights it has not pruned.

Whoever loses it starts again from all weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.methods.lotteryfl.ticket import pack_mask, unpack_mask
from common.models.heads import Head
from deltamask_client.run_file import RunFile

__all__ = ["Ticket", "TicketStore"]


@dataclass(frozen=True, eq=False)
class Ticket:
    """A client's part of the network."""

    kept: NDArray[np.bool_]
    """The mask over tail and head, bool ``(count,)``."""
    initial_head: Head
    """The head that the run started with, which pruning goes back to."""
    classes: tuple[str, ...]
    """Of the run."""


class TicketStore(RunFile):
    """The ticket of one run and client; a bit for each weight, and the head."""

    folder = "tickets"

    def load(self) -> Ticket | None:
        """The ticket of this run, or None."""
        found = self._read()
        if found is None:
            return None
        tensors, texts = found
        head = Head.from_tensors(tensors)
        return Ticket(unpack_mask(tensors["kept"], int(texts["count"])), head, tuple(json.loads(texts["classes"])))

    def save(self, ticket: Ticket) -> bool:
        """Replace what is held; False if the disk does not take it."""
        return self._write(
            {"kept": pack_mask(ticket.kept), **ticket.initial_head.tensors()},
            {"count": str(len(ticket.kept)), "classes": json.dumps(list(ticket.classes))},
        )
