"""HideNseek as a Flower Strategy: a network pruned once, whose clients learn the signs of what is left.

Vallapuram et al.: HideNseek: Federated Lottery Ticket via Server-side Pruning and Sign Supermask, arXiv 2206.04385.
Only what its abstract says is known to us (server-side pruning at initialisation, without data, by synaptic saliency;
clients optimise a sign mask that multiplies the unpruned weights); the rest is our choice, see docs/hidenseek.md.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from common.codecs import codec_of
from common.config.run import RunConfig
from common.downlink import join_chain, pack_exact, pack_same
from common.messages import Part, Parts, Update
from common.methods.fedavg.payload import unpack_weights, weights_bytes, weights_digest
from common.methods.hidenseek.config import DensitySection, HideNseekSection, SignSection
from common.methods.hidenseek.sign_network import SignNetwork, network_segments, network_weights
from common.methods.hidenseek.signs import SIGNS, SignState, as_floats, initial_scores, on_grid, positive_signs
from common.methods.hidenseek.subnetwork import Magnitudes, Subnetwork
from common.models.accuracy import Scored
from common.models.backbone import Backbone, Network
from common.saved import Saved
from common.theta import Version
from common.wire import PLAIN, Header, max_payload_bytes, unpack_payload
from deltamask_server.downlink import Downlink
from deltamask_server.enrolment import Enrolment
from deltamask_server.evaluation import Evaluator
from deltamask_server.fixed_point import FixedPointMean
from deltamask_server.methods.hidenseek.files import SignsForm
from deltamask_server.methods.hidenseek.synflow import prune
from deltamask_server.model_form import ModelForm
from deltamask_server.rounds import RoundStrategy
from deltamask_server.setting import Setting

__all__ = ["HideNseek"]


class HideNseek(RoundStrategy):
    """Signs by votes, with a memory.

    Each round, the mean of the clients' signs enters an exponential moving average, and a global sign turns where more
    than a share of that average is against it: half, or less (our choice), since many clients with different classes
    turn different signs, a few each round, and a majority hardly ever meets. Sums are integers, so that the order of
    replies does not matter.

    Parameters
    ----------
    enrolment
        Knows which clients are connected.
    backbone
        The frozen network; its masks are overwritten.
    kept
        What pruning leaves of the weights, bool ``(d,)``: the masked ones of the backbone, and of a random head.
    magnitudes
        ``own`` or ``constant``, see `common.methods.hidenseek.subnetwork`.
    momentum
        Share of the old average in the new one, in [0, 1); 0 has no memory. The first average is the first signs.
    turn_share
        Of the average, in [0, 0.5]; 0.5 is the majority. What is equal to it leaves a sign as it is.
    by_examples
        Whether a client counts as often as it has examples, or once.
    upload
        ``signs``, or as an ablation ``scores``: float32, averaged, and sent back.
    score_init
        Scores that travel have random sizes up to this at the start, as clients' have in each round where signs do.
    local_only
        The control: clients go on from their own signs, and send nothing.
    options
        What `RoundStrategy` takes.
    """

    name: ClassVar[str] = "hidenseek"
    files: ClassVar[tuple[ModelForm, ...]] = (SignsForm(),)

    def __init__(
        self,
        enrolment: Enrolment,
        *,
        backbone: Backbone,
        kept: NDArray[np.bool_],
        magnitudes: Magnitudes = "own",
        momentum: float = 0.0,
        turn_share: float = 0.5,
        by_examples: bool = True,
        upload: Literal["signs", "scores"] = "signs",
        score_init: float = 0.1,
        local_only: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(enrolment, **options)
        signed_head = None if self._head_kind.fitted else self.head
        self._subnetwork = Subnetwork(kept, network_segments(backbone, signed_head))
        prepared = self._subnetwork.prepare(network_weights(backbone, signed_head), magnitudes)
        self._packed = self._subnetwork.to_bytes(prepared)
        self._network = SignNetwork(backbone, self._subnetwork, prepared)
        self._momentum, self._turn_share, self._by_examples = momentum, turn_share, by_examples
        self._upload, self._local_only = upload, local_only
        n = self._subnetwork.n
        self._version = Version(on_grid(np.ones(n, np.bool_)))  # all signs are +1 at the start
        self._average = np.ones(n)
        if upload == "scores":
            self._scores = initial_scores(self.positive, score_init, self._seed, 0, 0)
        self._mean = FixedPointMean(n)
        self._downlink = Downlink(self._subnetwork.kept_segments, self._version)

    @classmethod
    def from_setting(cls, setting: Setting) -> Self:
        """By the run config's sections of HideNseek."""
        keys, signs = setting.run[HideNseekSection], setting.run[SignSection]
        assert setting.kept is not None
        return cls(
            setting.enrolment,
            backbone=setting.backbone,
            kept=setting.kept,
            magnitudes=keys.sign_magnitudes,
            momentum=signs.sign_momentum,
            turn_share=signs.sign_turn_share,
            by_examples=keys.sign_weighting == "examples",
            upload=keys.upload,
            score_init=keys.score_init,
            local_only=keys.local_only,
            **setting.options,
        )

    @classmethod
    def prune(cls, network: Network, run: RunConfig, classes: int) -> NDArray[np.bool_]:
        """By synaptic flow: of the masked weights, and of a head that is not fitted."""
        kind, seed = run.head_kind, run.rounds.seed
        head = None if kind.fitted else kind.start(classes, network.split.features, seed).weight
        return prune(network, run[DensitySection].density, run[HideNseekSection].prune_passes, head)

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Where the global sign of a kept weight is +1, ``(n,)``."""
        return positive_signs(self._version.theta)

    @property
    def n(self) -> int:
        """Kept weights."""
        return self._subnetwork.n

    def segments(self, backbone: Backbone) -> tuple[int, ...]:
        """Those of the backbone, and of a head that is not fitted."""
        return self._subnetwork.segments

    @property
    def kept_parameters(self) -> int:
        """Kept weights."""
        return self.n

    @property
    def digest(self) -> bytes:
        """Of the global signs, or scores."""
        return weights_digest(self._scores) if self._upload == "scores" else self._version.digest

    def parts(self, held: bytes | None) -> dict[str, bytes]:
        """A chain of versions of the signs, from the one held; or scores. For clients that hold nothing also the head,
        and what pruning has left.
        """
        if self._upload == "scores":
            model = {"scores": self._scores.astype("<f4").tobytes()}
        elif self._local_only and held is not None:  # of no use to a client that holds signs of its own
            model = {"signs": join_chain([pack_same(self._version)])}
        else:
            model = {"signs": self._downlink.message(held)}
        return model | self.head_part(held) | ({"subnetwork": self._packed} if held is None else {})

    def expected(self, server_round: int) -> Parts:
        """At most the largest payload of the codecs, or of scores."""
        return {"payload": Part(max(max_payload_bytes(self.n), weights_bytes(self.n)))}

    def begin_round(self, server_round: int) -> None:
        """Start a mean."""
        self._mean, self._base = FixedPointMean(self.n, len(self._slots)), self.digest

    def accept(self, update: Update, server_round: int, slot: int) -> None:
        """Decode one client's signs, or scores, and add them."""
        payload = update.parts["payload"]
        if self._local_only:
            unpack_payload(payload, Header(PLAIN, server_round, slot, 0, 0, bytes(8), SIGNS))
            return
        if self._upload == "scores":
            found = unpack_weights(payload, self.n, server_round, slot, self._base, SIGNS)
        else:
            shared = SignState.of(self._version, self._seed, server_round, slot, self._subnetwork.kept_segments)
            found = as_floats(codec_of(payload).decode(payload, shared))
        self._mean.add(found, self.counted(update, slot) if self._by_examples else 1)

    def end_round(self, server_round: int) -> None:
        """Turn the signs that enough of the moving average is against."""
        if self._local_only:
            return
        if self._upload == "scores":
            self._scores = self._mean.mean(self._scores)
            self._version = Version(on_grid(self._scores >= 0))
            return
        old = self.positive
        mean = self._mean.mean(as_floats(old)).astype(np.float64)
        self._average = self._momentum * self._average + (1 - self._momentum) * mean
        against = (1 - self._average * as_floats(old)) / 2
        self._version = Version(on_grid(old ^ (against > self._turn_share)))
        # No mask that everybody can draw tells anything of signs: they are coded against the ones before alone.
        self._downlink.publish(
            self._version, lambda after, before: pack_exact(after, before, self._seed, server_round, [])
        )

    def evaluate(self, evaluator: Evaluator, server_round: int) -> dict[str, Scored]:
        """Accuracy of the global signs."""
        self._network.load(self.head, as_floats(self.positive))
        return {"mean": evaluator.score(self._network.logits)}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Signs of the kept weights (uint8, 1 is +1), and the subnetwork as it travels (uint8)."""
        return {
            "signs": torch.from_numpy(self.positive.astype(np.uint8)),
            "subnetwork": torch.from_numpy(np.frombuffer(self._packed, np.uint8).copy()),
        }

    def method_state(self) -> Saved:
        """Signs with their moving average and the steps that led to them; or scores. Pruning is repeated."""
        if self._upload == "scores":
            return Saved({"scores": self._scores})
        arrays: dict[str, NDArray[Any]] = {"signs": self._version.theta, "average": self._average}
        return Saved(arrays) | self._downlink.state().under("downlink")

    def load_method_state(self, saved: Saved) -> None:
        """Go on from there."""
        if self._upload == "scores":
            self._scores = saved.arrays["scores"]
            self._version = Version(on_grid(self._scores >= 0))
            return
        self._version, self._average = Version(saved.arrays["signs"]), saved.arrays["average"]
        self._downlink.load_state(saved.part("downlink"), self._version)

    def summary(self) -> None:
        """Print what this strategy is."""
        segments = self._subnetwork.segments
        total = sum(segments)
        print(
            f"HideNseek: {self.n:,} of {total:,} weights kept ({100 * self.n / total:.2f} %) in {len(segments)} "
            f"tensors, quorum {self._closing.quorum}" + (", local only: nothing is sent" if self._local_only else "")
        )
