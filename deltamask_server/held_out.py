"""Which models clients are asked about, on the images that they hold out, and which message asks.

Where every client trains in every round, the next training message asks: it brings the model anyway, and a message
saved is one less each way, and on a device one process less to start. Where a round takes a sample of the clients, the
next one takes others, whose images do not compare; then, and about the last model, an evaluation asks all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from common.models.heads import Head
from deltamask_server.kept import Keeper
from deltamask_server.tally import Tally
from deltamask_server.validation import held_out_tally, pooled

__all__ = ["HeldOut"]


@dataclass
class HeldOut:
    """What is still to be asked, and what was heard.

    Parameters
    ----------
    wanted
        Clients hold images out.
    all_train
        Every connected client trains in every round.
    keeper
        Hears of each model, and keeps the best.
    """

    wanted: bool
    all_train: bool
    keeper: Keeper
    unchecked: int | None = None
    """The round whose model the next training message asks about; 0: the head alone."""
    earlier: tuple[int, Tally] | None = None
    """That round, and what was said of its model, once the replies have come."""

    def leave_to_next(self, server_round: int) -> bool:
        """Leave this model to the next training message, if that can ask about it; says whether it does."""
        leaves = self.all_train and not self.keeper.may_give_up
        self.unchecked = server_round if leaves else None
        return leaves

    def order(self) -> dict[str, float]:
        """What a training message says of it."""
        return {} if self.unchecked is None else {"check": self.unchecked}

    def hear(self, tally: Tally, tensors: Callable[[int], dict[str, torch.Tensor]], head: Head) -> None:
        """Hear the replies to a training message, before they change the model.

        Parameters
        ----------
        tally
            The replies.
        tensors, head
            The model that they began with, by its round.
        """
        checked, self.unchecked, self.earlier = self.unchecked, None, None
        if checked is not None:
            said = held_out_tally(tally)
            self.look(checked, said, tensors, head)
            self.earlier = checked, said

    def look(
        self, server_round: int, said: Tally, tensors: Callable[[int], dict[str, torch.Tensor]], head: Head
    ) -> None:
        """Tell the keeper how good a model is."""
        self.keeper.look(server_round, pooled(said), lambda: tensors(server_round), head)
