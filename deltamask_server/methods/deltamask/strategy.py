"""DeltaMask as a Flower Strategy: send theta, decode the clients' deltas one by one, fold the masks into a Beta
posterior.

Tsouvalas, Asano, Saeed: Federated Fine-Tuning of Foundation Models via Probabilistic Masking, arXiv 2311.17299,
algorithm 1. How masks become theta is a rule of `common.aggregation`; the paper's is the Beta posterior.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from common.aggregation import RULES, Rule, observe
from common.aggregation.base import Change
from common.aggregation.config import AggregationSection
from common.aggregation.flips import FlipsRule
from common.codecs import SharedState
from common.codecs.shared_masks import SharedMasks
from common.downlink import Relayed, pack_change, pack_exact, pack_relay
from common.downlink.config import DownlinkSection
from common.errors import RoundError
from common.messages import Part, Parts, Update
from common.methods.deltamask.config import ThetaSection, frozen_head_rounds
from common.models.accuracy import Scored
from common.models.heads import Head
from common.models.heads.linear_probe import average_heads
from common.saved import Saved
from common.theta import ONE, Version, probabilities, quantise
from common.uniforms import SERVER_CLIENT, stream_key
from common.wire import HEADER_BYTES, max_payload_bytes
from deltamask_server.downlink import Downlink
from deltamask_server.enrolment import Enrolment
from deltamask_server.evaluation import Evaluator
from deltamask_server.methods.deltamask.defence import Defence
from deltamask_server.methods.deltamask.files import MaskForm, MeanForm
from deltamask_server.methods.deltamask.gain_control import GainControl
from deltamask_server.model_form import ModelForm
from deltamask_server.rounds import RoundStrategy
from deltamask_server.setting import Setting

__all__ = ["DeltaMask"]


class DeltaMask(RoundStrategy):
    """Bayesian aggregation of probabilistic masks.

    Parameters
    ----------
    enrolment
        Knows which clients are connected.
    segments
        Sizes of the masked tensors; d is their sum.
    rule
        How updates become the next theta; flips by default.
    gains
        How much changes count.
    defence
        What one client may do to a round; nothing is limited by default.
    downlink
        How theta travels: ``float32``, ``quantised``, ``exact`` or ``relay``.
    initial_theta
        Probability of every mask bit at the start, in (0, 1).
    frozen_head_rounds
        Rounds that leave the head as it is; in later ones clients train it too.
    options
        What `RoundStrategy` takes.
    """

    name: ClassVar[str] = "deltamask"
    files: ClassVar[tuple[ModelForm, ...]] = (MeanForm(), MaskForm())

    def __init__(
        self,
        enrolment: Enrolment,
        *,
        segments: Sequence[int],
        rule: Rule[Any] | None = None,
        gains: GainControl | None = None,
        defence: Defence | None = None,
        downlink: str = "exact",
        initial_theta: float = 0.95,
        frozen_head_rounds: float = math.inf,
        **options: Any,
    ) -> None:
        super().__init__(enrolment, **options)
        self._segments = tuple(segments)
        self._rule: Rule[Any] = rule or FlipsRule()
        self._gains, self._defence = gains or GainControl(), defence or Defence()
        self._version = Version(np.full(self.d, quantise(initial_theta), dtype=np.uint16))
        self._form = downlink
        self._downlink = Downlink(
            self._segments, self._version, whole="float32" if downlink == "float32" else "quantised"
        )
        self._aggregate: Any = None  # what the rule has kept of earlier rounds
        self._start: Any = None  # of this round
        self._folded: Any = None
        self._relayed: dict[int, Relayed] = {}  # slot -> accepted payload of this round
        self._drawn: SharedMasks | None = None  # what the masks m_g of this round's clients say together, for `exact`
        self._frozen_head_rounds = frozen_head_rounds
        self._heads: dict[int, tuple[Head, int]] = {}  # slot -> head trained in this round, and its examples

    @classmethod
    def from_setting(cls, setting: Setting) -> Self:
        """By the run config's sections of DeltaMask, aggregation and downlink."""
        run = setting.run
        return cls(
            setting.enrolment,
            segments=setting.backbone.masks.segments,
            rule=RULES[run[AggregationSection].aggregation].from_config(run),
            gains=GainControl.from_config(run),
            defence=Defence.from_config(run),
            downlink=run[DownlinkSection].downlink,
            initial_theta=run[ThetaSection].initial_theta,
            frozen_head_rounds=frozen_head_rounds(run),
            **setting.options,
        )

    @property
    def d(self) -> int:
        """Masked weights."""
        return sum(self._segments)

    @property
    def theta(self) -> NDArray[np.uint16]:
        """Global probabilities on the 16-bit grid, ``(d,)``."""
        return self._version.theta

    @property
    def digest(self) -> bytes:
        """Of theta."""
        return self._version.digest

    def parts(self, held: bytes | None) -> dict[str, bytes]:
        """A chain of versions of theta, from the one held; and the head."""
        return {"theta": self._downlink.message(held), **self.head_part(held)}

    def expected(self, server_round: int) -> Parts:
        """A payload within the wire format's limit; in the last rounds a head too, if the run says so."""
        payload = {"payload": Part(max_payload_bytes(self.d))}
        return payload | ({"head": Part(self._head_bytes)} if self._trains_head(server_round) else {})

    def orders(self, server_round: int) -> dict[str, float]:
        """How much a change is to count."""
        return {"gain": self._gains.gain}

    def begin_round(self, server_round: int) -> None:
        """Start as the rule does, from what earlier rounds have left or anew."""
        # `_aggregate` is replaced at the end only: a round without quorum leaves it as it was.
        self._start = self._folded = self._rule.start(self.theta, self._aggregate, server_round)
        self._relayed, self._heads = {}, {}
        self._defence.begin_round()
        makes_anew = self._form == "exact" and self._rule.observes == "mask"
        self._drawn = SharedMasks(self.theta) if makes_anew else None

    def accept(self, update: Update, server_round: int, slot: int) -> None:
        """Decode the client's mask and fold it, and keep its head where that is trained."""
        payload, head = update.parts["payload"], None
        # Before anything is folded: of a reply everything counts, or nothing.
        if "head" in update.parts:
            head = Head.from_bytes(update.parts["head"], self._classes, self._features)
        self._gains.check(payload)
        shared = self._shared(server_round, slot)
        observed = observe(self._rule, payload, shared)
        self._folded = self._rule.fold(self._folded, observed, update.examples)
        self._defence.hear(slot, payload, self._rule, observed, shared)
        self._relayed[slot] = Relayed(payload, update.examples)
        if self._drawn is not None:  # while others still train
            self._drawn.add(stream_key(self._seed, server_round, slot))
        if head is not None:
            self._heads[slot] = head, update.examples

    def end_round(self, server_round: int) -> None:
        """Theta is what the rule makes of the masks, the head the mean of those trained, by examples."""
        rule, bodies = self._rule, {slot: len(sent.payload) - HEADER_BYTES for slot, sent in self._relayed.items()}
        fewer = self._defence.refold(self._rule, self._start, self._relayed, partial(self._shared, server_round))
        self.limited = self._defence.verdicts
        # Whoever is limited has no say in how precise everybody's updates are, unless all are.
        usual = [size for slot, size in bodies.items() if slot not in self.limited] or list(bodies.values())
        self._gains.spent(8 * sum(usual) / len(usual) / self.d, server_round)
        if fewer is not None:
            rule, self._folded, self._relayed, self._drawn = *fewer, None
            self._heads = {slot: head for slot, head in self._heads.items() if slot in self._relayed}
        theta, self._aggregate = rule.finish(self._folded)
        version, start, change = Version(theta), self._start, rule.change(self._folded)
        if self._trains_head(server_round):
            # In the order of slots: a sum of floats depends on its order, and arrival is chance.
            self.head = average_heads([self._heads[slot] for slot in sorted(self._heads)])
            self._head_trained = True

        def step(after: Version, before: Version) -> bytes | None:
            if self._form == "relay":
                first = rule.pack_start(start, before.theta)
                return pack_relay(after, before, rule, first, server_round, self._relayed)
            if change is None:
                return pack_exact(after, before, self._seed, server_round, list(self._relayed), self._drawn)
            return self.pack_change(after, before, change, server_round)

        self._downlink.publish(version, step if self._form in ("exact", "relay") else None)
        self._version = version

    def pack_change(self, after: Version, before: Version, change: Change, server_round: int) -> bytes | None:
        """What the round has added to theta, for who holds the theta before it; None if there is no code for it."""
        sizes = {slot: len(sent.payload) for slot, sent in self._relayed.items()}
        return pack_change(after, before, change, self._seed, server_round, sizes, self._segments)

    def evaluate(self, evaluator: Evaluator, server_round: int) -> dict[str, Scored]:
        """Accuracies of the weights times theta (``mean``, the posterior mean model), times one sampled mask
        (``sample``), and times [theta >= 1/2] (``threshold``).
        """
        sample = SharedState.of(self._version, self._seed, server_round, SERVER_CLIENT).mask()
        forms = {"mean": probabilities(self.theta), "sample": sample, "threshold": self.theta >= ONE // 2}
        return {name: evaluator.multiplied(form.astype(np.float32), self.head) for name, form in forms.items()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Theta (uint16 grid)."""
        return {"theta": torch.from_numpy(self.theta.astype(np.int32)).to(torch.uint16)}

    def untrained(self) -> dict[str, torch.Tensor]:
        """All probabilities as near to 1 as the grid goes: the pre-trained function."""
        return {"theta": torch.full((self.d,), ONE - 1, dtype=torch.int32).to(torch.uint16)}

    def method_state(self) -> Saved:
        """Theta, the steps that led to it, and what the rule remembers."""
        remembered = Saved() if self._aggregate is None else self._rule.state(self._aggregate)
        return (
            Saved(
                {"theta": self.theta},
                {
                    "rule": self._rule.name,
                    "remembers": self._aggregate is not None,
                    "gain": self._gains.gain,
                    "bpp": self._gains.total,
                },
            )
            | remembered.under("aggregate")
            | self._downlink.state().under("downlink")
        )

    def load_method_state(self, saved: Saved) -> None:
        """Go on from that theta; raises RoundError if it is another model's, or was made by another rule."""
        theta, rule = saved.arrays["theta"], saved.values["rule"]
        if len(theta) != self.d or rule != self._rule.name:
            raise RoundError(
                f"a state of {len(theta):,} masked weights by the rule {rule}; this run has {self.d:,}, and the rule "
                f"{self._rule.name}"
            )
        self._version = Version(theta)
        self._aggregate = self._rule.load_state(saved.part("aggregate")) if saved.values["remembers"] else None
        self._downlink.load_state(saved.part("downlink"), self._version)
        self._gains.gain, self._gains.total = float(saved.values["gain"]), float(saved.values["bpp"])

    def summary(self) -> None:
        """Print what this strategy is."""
        print(f"DeltaMask: {self.d:,} masked weights in {len(self._segments)} tensors, quorum {self._closing.quorum}")

    def _shared(self, server_round: int, slot: int) -> SharedState:
        return SharedState.of(self._version, self._seed, server_round, slot, self._segments)

    def _trains_head(self, server_round: int) -> bool:
        return server_round > self._frozen_head_rounds
