"""Keys that every run has: rounds, clients, local training, evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import Field

from common.config.section import Section

__all__ = [
    "CalibrationSection",
    "CheckpointSection",
    "EvaluationSection",
    "LimitsSection",
    "MirrorSection",
    "MomentumSection",
    "OptimiserSection",
    "RoundsSection",
    "TrainingSection",
]


class RoundsSection(Section):
    """How long a run is, and with whom."""

    title: ClassVar[str] = "Run"

    seed: int = Field(
        1, ge=0, lt=2**63, description="Seed of everything random in the run. The same seed gives the same bytes."
    )
    threads: int = Field(
        1,
        ge=0,
        le=1024,
        description="CPU threads of torch in each process; 0 leaves torch's own choice. Other numbers of threads may "
        "round differently.",
    )
    num_server_rounds: int = Field(10, ge=1, le=100_000, description="Rounds of training, after the head round.")
    participation: float = Field(1.0, gt=0, le=1, description="Share of the clients that train in a round.")
    over_sample: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Share of clients asked in a round beyond `participation`; the round closes with as many usable "
        "replies as `participation` wants, and whoever is later counts for nothing. 0.25: a quarter more.",
    )
    min_clients: int = Field(
        2,
        ge=1,
        description="Clients that must be connected before the run starts, and quorum of usable replies in each round.",
    )
    node_wait_seconds: float = Field(
        120.0,
        gt=0,
        description="How long to wait for min-clients to connect, and once for each node to say who it is.",
    )
    bind_clients: bool = Field(
        False,
        description="A partition-id belongs to the node that named it first, for the whole run. For SuperLinks with "
        "node authentication, where a node is its key and keeps its id; without, a site that restarts could not come "
        "back.",
    )
    round_timeout_seconds: float = Field(
        3600.0, gt=0, description="How long to wait for the replies of one round; later replies are counted as missing."
    )
    round_deadline_seconds: float = Field(
        0.0,
        ge=0,
        description="After so long a round closes as soon as min-clients usable replies are in; whoever is later "
        "counts for nothing in it. 0: it waits for everybody.",
    )
    round_retries: int = Field(
        3, ge=0, le=1000, description="How often a round with fewer usable replies than min-clients is tried again."
    )
    retry_wait_seconds: float = Field(60.0, ge=0, description="How long to wait before a round is tried again.")
    output_dir: str = Field(
        "runs",
        min_length=1,
        description="Where the server writes its run folders; relative to the folder the SuperLink was started in.",
    )


class LimitsSection(Section):
    """What one client may do, whatever the method."""

    title: ClassVar[str] = "What one client may do"

    most_examples: float = Field(
        4.0,
        ge=0,
        description="A client counts for no more examples than this times the median client's, whatever number it "
        "gives; 0: no limit.",
    )
    screen_heads: bool = Field(
        True,
        description="Leave out of a fitted head what cannot have been measured on images of the same classes by the "
        "same frozen weights, compared with the other clients' statistics.",
    )


class CheckpointSection(Section):
    """How a run outlives its server."""

    title: ClassVar[str] = "Checkpoints"

    resume: str = Field(
        "",
        description="A run folder of this server, or `latest`: go on with that run after the last round that it wrote "
        "a checkpoint of, in the same folder. Everything else must be as it was then, but for rounds, waiting times, "
        "patience and evaluations; the folder's resume.toml has it all.",
    )
    checkpoint_every: int = Field(
        1, ge=0, description="Rounds from one checkpoint to the next; the last two are kept. 0: there are none."
    )
    checkpoint_keep_every: int = Field(0, ge=0, description="Checkpoints of each such round are kept as well; 0: none.")


class TrainingSection(Section):
    """How clients train, whatever they train."""

    title: ClassVar[str] = "Local training"

    local_epochs: int = Field(3, ge=1, description="Passes over the local data in a round.")
    batch_size: int = Field(32, ge=1, description="Images in a training step; a SuperNode may have its own.")
    augment: int = Field(
        0,
        ge=0,
        le=100,
        description="Augmented views of each training image beside itself, drawn once: their activations are cached.",
    )

    @classmethod
    def offers(cls) -> Iterable[type[Section]]:
        """Of views."""
        return (MirrorSection,)

    def brings(self) -> Iterable[type[Section]]:
        """Views that there are not cannot be mirrored."""
        return self.offers() if self.augment else ()


class CalibrationSection(Section):
    """Of methods whose clients train for all classes, although they may have few."""

    title: ClassVar[str] = "Sites that differ"
    under: ClassVar[str] = "method"

    calibration: float = Field(
        1.0,
        ge=0,
        le=4,
        description="Times the logarithm of the site's class frequencies, added to the logits while it trains, so that "
        "it need not unlearn the classes it lacks; 0 is plain cross-entropy, the paper's. Counts never leave the site.",
    )


class OptimiserSection(Section):
    """Of methods that train weights or signs."""

    title: ClassVar[str] = "Optimiser of weights and signs"
    under: ClassVar[str] = "method"

    optimiser: Literal["adam", "sgd"] = Field("adam", description="How clients train weights or signs.")

    @classmethod
    def offers(cls) -> Iterable[type[Section]]:
        """Of `sgd`."""
        return (MomentumSection,)

    def brings(self) -> Iterable[type[Section]]:
        """Momentum is that of ``sgd``."""
        return self.offers() if self.optimiser == "sgd" else ()


class MomentumSection(Section):
    """Of the optimiser ``sgd``."""

    title: ClassVar[str] = "Optimiser `sgd`"
    under: ClassVar[str] = "optimiser"

    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of `sgd`.")


class MirrorSection(Section):
    """Of augmented views."""

    title: ClassVar[str] = "Augmented views"
    under: ClassVar[str] = "augment"

    augment_mirror: bool = Field(
        True, description="Views may be mirrored; false for digits, letters, and all that reads one way."
    )


class EvaluationSection(Section):
    """When, and on what, the model is tested."""

    title: ClassVar[str] = "Evaluation"

    eval_every: int = Field(
        1, ge=1, description="Rounds from one evaluation to the next; the last is always evaluated."
    )
    eval_batch_size: int = Field(250, ge=1, description="Images in a batch without gradients.")
    personal_test: bool = Field(
        False,
        description="Clients test the model they have just trained on the test images of the run's dataset that are of "
        "their own classes, in every evaluated round, as LotteryFL does.",
    )
