"""The model that a run ends with: the best by the images that clients hold out, the head alone among the candidates.

Training can make a model worse, where sites differ or steps are too long. Whoever starts a run expects at least what
he had before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from common.models.heads import Head
from common.saved import Saved

__all__ = ["Keeper", "Kept"]

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Kept:
    """A global model, as it was after a round."""

    server_round: int
    """0: the head alone, on the frozen network."""
    accuracy: float
    """On all images held out, each counting the same, in [0, 1]."""
    loss: float
    """Mean cross-entropy on them."""
    tensors: Tensors
    head: Head


@dataclass
class Keeper:
    """Keeps the best model so far.

    Parameters
    ----------
    patience
        Models looked at without a better one after which a run may end; 0: never.
    """

    patience: int = 0
    best: Kept | None = None
    first: float | None = None
    """Accuracy of the head alone."""
    checked: list[tuple[int, float]] = field(default_factory=list)
    """Accuracy by round, of those that were looked at."""

    def look(
        self, server_round: int, said: tuple[float, float] | None, tensors: Callable[[], Tensors], head: Head
    ) -> None:
        """Hear how good the model of a round is, and keep it if it is the best.

        A few dozen images leave many models with the same accuracy; of these the one with the lower loss is kept, and
        where that is the same too the later one, or the head alone.

        Parameters
        ----------
        server_round
            0: the head alone.
        said
            Accuracy and loss on the images held out; None: nobody has any.
        tensors, head
            The model.
        """
        if said is None:
            return
        accuracy, loss = said
        self.checked.append((server_round, accuracy))
        if server_round == 0:
            self.first = accuracy
        best = self.best
        if best is None or (accuracy, -loss, bool(best.server_round)) > (best.accuracy, -best.loss, False):
            self.best = Kept(server_round, accuracy, loss, tensors(), head)

    @property
    def gave_up(self) -> bool:
        """Whether so many models have been looked at since the best one that patience is at its end."""
        return self._looks_left == 0

    @property
    def may_give_up(self) -> bool:
        """Whether the next look may bring patience to its end."""
        return self._looks_left is not None and self._looks_left <= 1

    @property
    def _looks_left(self) -> int | None:
        """Before patience ends; None: it does not."""
        if not self.patience or self.best is None:
            return None
        return max(0, self.patience - sum(looked > self.best.server_round for looked, _ in self.checked))

    def state(self) -> Saved:
        """What goes on after a run was stopped."""
        checked = [[server_round, accuracy] for server_round, accuracy in self.checked]
        if self.best is None:
            return Saved({}, {"checked": checked, "first": self.first, "best": None})
        best = self.best
        tensors = Saved({name: tensor.numpy() for name, tensor in best.tensors.items()})
        head = Saved({"weight": best.head.weight, "bias": best.head.bias})
        values = {"checked": checked, "first": self.first, "best": [best.server_round, best.accuracy, best.loss]}
        return Saved({}, values) | tensors.under("tensors") | head.under("head")

    def load_state(self, saved: Saved) -> None:
        """Go on with what `state` gave."""
        self.checked = [(int(server_round), float(accuracy)) for server_round, accuracy in saved.values["checked"]]
        self.first, best = saved.values["first"], saved.values["best"]
        if best is not None:
            head = saved.part("head").arrays
            tensors = {name: torch.from_numpy(array) for name, array in saved.part("tensors").arrays.items()}
            self.best = Kept(int(best[0]), float(best[1]), float(best[2]), tensors, Head(head["weight"], head["bias"]))
