"""What a method is on the server: how its global model travels, and what a reply does to it.

A method is a subclass of `deltamask_server.rounds.RoundStrategy`, in a room of its own under
``deltamask_server/methods``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Self

import numpy as np
import torch
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from common.config.run import RunConfig
from common.messages import Parts, Update
from common.models.accuracy import Scored
from common.models.backbone import Backbone, Network
from common.saved import Saved
from deltamask_server.evaluation import Evaluator
from deltamask_server.model_form import ModelForm
from deltamask_server.setting import Setting

__all__ = ["MethodStrategy"]


class MethodStrategy(Strategy):
    """What the rounds ask of a method."""

    name: ClassVar[str]
    """Of the method, as in `common.methods`."""
    files: ClassVar[tuple[ModelForm, ...]] = ()
    """Forms that ``deltamask export`` makes of its model; the first is the default."""

    @classmethod
    @abstractmethod
    def from_setting(cls, setting: Setting) -> Self:
        """The strategy of a run."""

    @classmethod
    def prune(cls, network: Network, run: RunConfig, classes: int) -> NDArray[np.bool_] | None:
        """Which weights stay, of a network that is not masked yet, bool ``(d,)``; None: the method does not prune."""
        return None

    @property
    @abstractmethod
    def digest(self) -> bytes:
        """8 bytes that name the global model."""

    @abstractmethod
    def parts(self, held: bytes | None) -> dict[str, bytes]:
        """What a client lacks of the global model that holds the version with this digest (None: nothing), by name."""

    @abstractmethod
    def expected(self, server_round: int) -> Parts:
        """What replies of a round bring. One part is ``payload``."""

    def orders(self, server_round: int) -> dict[str, float]:
        """Numbers that the server tells every client of a round, beside round and slot."""
        return {}

    @abstractmethod
    def begin_round(self, server_round: int) -> None:
        """Make ready for the replies of a round."""

    @abstractmethod
    def accept(self, update: Update, server_round: int, slot: int) -> None:
        """Decode one reply and fold it in; raises PayloadError, and has then changed nothing."""

    @abstractmethod
    def end_round(self, server_round: int) -> None:
        """Replace the global model; called only where enough replies were accepted."""

    @abstractmethod
    def evaluate(self, evaluator: Evaluator, server_round: int) -> dict[str, Scored]:
        """How good the global model is, by form, as the method's `common.methods.Method.forms` names them."""

    @abstractmethod
    def tensors(self) -> dict[str, torch.Tensor]:
        """The global model without its head, to be kept in a file."""

    def untrained(self) -> dict[str, torch.Tensor]:
        """`tensors` of the head alone, on the frozen network."""
        return self.tensors()

    @abstractmethod
    def method_state(self) -> Saved:
        """What the method needs to go on after this round."""

    @abstractmethod
    def load_method_state(self, saved: Saved) -> None:
        """Go on from there."""

    def segments(self, backbone: Backbone) -> tuple[int, ...]:
        """Sizes of the tensors that the method may mask or prune; bits per parameter count by their sum."""
        return backbone.masks.segments

    @property
    def kept_parameters(self) -> int | None:
        """Masked weights that pruning has kept; None if the method does not prune."""
        return None
