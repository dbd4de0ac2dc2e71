"""Aggregation as a seam: how the masks of a round become the next theta. A rule is a value with pure functions.

    state = rule.start(theta, previous, server_round)
    state = rule.fold(state, observed, weight)          for each accepted payload, in any order
    theta, state = rule.finish(state)

The server folds with them, and so does every client that is relayed the payloads: `Rule.pack_start` and
`Rule.read_start` say in a few bytes what of the state a client that holds theta alone cannot know.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from common.codecs import SharedState, codec_of
from common.config.section import Section, Sections
from common.saved import Saved

__all__ = ["Change", "Rule", "fold_payload", "observe"]

S = TypeVar("S")


class Change(NamedTuple):
    """What a round adds to theta."""

    values: NDArray[np.int32]
    """In 1/65536, ``(d,)``."""
    clip: int
    """Theta then stays in [clip, 65536 - clip]."""


class Rule(ABC, Generic[S]):
    """One way to aggregate. ``S`` is its state: a value that `fold` replaces and never changes.

    Folding in any order gives the same state, bit for bit: sums are integers.
    """

    name: ClassVar[str]
    """Its value of the run key ``aggregation``."""
    number: ClassVar[int]
    """In relayed payloads; never reused."""
    observes: ClassVar[Literal["mask", "change"]]
    """What it folds: a client's mask m_k, bool ``(d,)``, or an estimate of theta_k - theta, int32 ``(d,)`` in 1/65536
    (`common.codecs.Codec.change`).
    """
    weighs: bool
    """Whether a client counts by its number of examples, or once."""
    section: ClassVar[type[Section]]
    """Its keys."""

    @classmethod
    @abstractmethod
    def from_config(cls, run: Sections) -> Self:
        """The rule as a run config has it."""

    def weighing(self) -> Rule[S] | None:
        """A rule that does the same and can count a client for less than another; None: there is none."""
        return None

    @abstractmethod
    def start(self, theta: NDArray[np.uint16], previous: S | None, server_round: int) -> S:
        """The state before the first reply of a round.

        Parameters
        ----------
        theta
            Global probabilities on the 16-bit grid, ``(d,)``.
        previous
            What `finish` left of the round before; None in the first round.
        server_round
            From 1 on.
        """

    @abstractmethod
    def fold(self, state: S, observed: NDArray[Any], weight: int = 1) -> S:
        """The state after one more client.

        Parameters
        ----------
        state
            So far.
        observed
            As `observes` says, ``(d,)``.
        weight
            The client's examples, at least 1; ignored by rules that do not weigh.
        """

    @abstractmethod
    def finish(self, state: S) -> tuple[NDArray[np.uint16], S]:
        """The next theta, uint16 ``(d,)``, and what the next round starts from."""

    def change(self, state: S) -> Change | None:
        """What `finish` adds to theta, where it adds something and clips; None where theta is made anew."""
        return None

    @abstractmethod
    def state(self, state: S) -> Saved:
        """A state to be kept."""

    @abstractmethod
    def load_state(self, saved: Saved) -> S:
        """The inverse of `state`."""

    @abstractmethod
    def pack_start(self, state: S, theta: NDArray[np.uint16]) -> bytes | None:
        """Parameters of the rule, and what it takes to make a round's first state from theta; None if theta and a few
        bytes do not tell.
        """

    @classmethod
    @abstractmethod
    def read_start(cls, data: bytes, theta: NDArray[np.uint16], clients: int) -> tuple[Self, S]:
        """The inverse of `pack_start`, for a round of so many clients.

        Raises
        ------
        PayloadError
            If the bytes are not of this rule, or do not go with theta.
        """


def fold_payload(rule: Rule[S], state: S, payload: bytes, shared: SharedState, weight: int = 1) -> S:
    """Decode one client's payload and fold it: the server's way and a client's.

    Parameters
    ----------
    rule, state
        How, and so far.
    payload, shared
        The bytes received, and what both sides know of their sender.
    weight
        The sender's examples.

    Raises
    ------
    PayloadError
        If there is anything wrong with the payload.
    """
    return rule.fold(state, observe(rule, payload, shared), weight if rule.weighs else 1)


def observe(rule: Rule[Any], payload: bytes, shared: SharedState) -> NDArray[Any]:
    """What a rule folds of a payload, as its `Rule.observes` says; raises PayloadError as `fold_payload` does."""
    codec = codec_of(payload)
    observed: NDArray[Any] = (codec.decode if rule.observes == "mask" else codec.change)(payload, shared)
    return observed
