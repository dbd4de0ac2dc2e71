"""Private DeltaMask as a Flower Strategy: the mean of the clients' bits moves theta, as that of their flips does."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np

from common.aggregation.base import Change
from common.downlink import Relayed, pack_some
from common.messages import Part, Parts, Update
from common.methods.deltamask.config import ThetaSection
from common.methods.private.config import PrivacySection
from common.methods.private.response import change_of, response_bytes, unpack_responses
from common.subset import share_code, subset
from common.theta import Version
from deltamask_server.methods.deltamask.strategy import DeltaMask
from deltamask_server.setting import Setting

__all__ = ["Private"]


class Private(DeltaMask):
    """Adds what clients answer at the positions of a round.

    Parameters
    ----------
    share, amplitude
        Share of the positions that a round asks for; how far it moves a probability for which all answer alike.
    arguments, options
        Of `DeltaMask`.
    """

    name: ClassVar[str] = "private"
    tells_fit: ClassVar[bool] = False

    def __init__(self, *arguments: Any, share: float = 0.05, amplitude: float = 0.5, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._share, self._amplitude = share_code(share), amplitude
        self._positions = np.zeros(0, np.int64)

    @classmethod
    def from_setting(cls, setting: Setting) -> Self:
        """By the run config's section."""
        run, keys = setting.run, setting.run[PrivacySection]
        return cls(
            setting.enrolment,
            segments=setting.backbone.masks.segments,
            share=keys.response_share,
            amplitude=keys.response_amplitude,
            initial_theta=run[ThetaSection].initial_theta,
            **setting.options,
        )

    def expected(self, server_round: int) -> Parts:
        """A bit for each position asked for."""
        asked = subset(self.d, self._share, self._seed, server_round)
        return {"payload": Part(response_bytes(len(asked)))}

    def orders(self, server_round: int) -> dict[str, float]:
        """Nothing: clients know the amplitude."""
        return {}

    def begin_round(self, server_round: int) -> None:
        """Choose the positions."""
        super().begin_round(server_round)
        self._positions = subset(self.d, self._share, self._seed, server_round)

    def accept(self, update: Update, server_round: int, slot: int) -> None:
        """Fold the client's bits, weighted by its images: the more it has, the more its bits say."""
        payload, asked = update.parts["payload"], self._positions
        bits = unpack_responses(payload, self.d, len(asked), server_round, slot, self.digest)
        change, examples = change_of(bits, asked, self.d, self._amplitude), self.counted(update, slot)
        self._folded = self._rule.fold(self._folded, change, examples)
        self._relayed[slot] = Relayed(payload, examples)

    def pack_change(self, after: Version, before: Version, change: Change, server_round: int) -> bytes | None:
        """Everybody knows which positions can have moved."""
        return pack_some(after, before, change, self._share, self._seed, server_round)
