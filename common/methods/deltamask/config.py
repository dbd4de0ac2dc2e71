"""Keys of DeltaMask, beside those of codecs, aggregation and downlink."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import Field

from common.config.section import Section, Sections
from common.config.shared import RoundsSection
from common.selection import cosine

__all__ = [
    "STEP_IMAGES",
    "AdamSection",
    "DeltaMaskSection",
    "GradientStepsSection",
    "HeadTrainingSection",
    "ThetaSection",
    "frozen_head_rounds",
    "step_of",
]


STEP_IMAGES = 16
"""Images in the batch that ``score-step`` is for; others have as much longer or shorter steps, so that a pass over the
images moves as far by whatever batches (Goyal et al., arXiv 1706.02677).
"""


class ThetaSection(Section):
    """How probabilities start."""

    title: ClassVar[str] = "Probabilities"
    under: ClassVar[str] = "method"

    initial_theta: float = Field(
        0.95, gt=0, lt=1, description="Probability of every mask bit at the start; 1 would be the pre-trained function."
    )


class DeltaMaskSection(Section):
    """How scores move."""

    title: ClassVar[str] = "DeltaMask"
    under: ClassVar[str] = "method"

    score_optimiser: Literal["sgd", "adam"] = Field(
        "sgd",
        description="How clients train scores: `sgd`, steps in proportion to the gradient, which move what matters; "
        "`adam`, the paper's, moves all scores alike.",
    )
    local_masks: Literal["sample", "mean"] = Field(
        "mean",
        description="What weights are multiplied with while scores are trained: a mask `sample`d anew in every step, "
        "as in the paper, or its `mean`, the probabilities themselves.",
    )
    vacant_distillation: float = Field(
        1.0,
        ge=0,
        description="Times the cross-entropy with what the received model says of the classes that a site lacks, for "
        "its images, added to its loss: so it does not unlearn them, for a forward pass a round; 0 is the paper.",
    )
    kl_penalty: float = Field(
        0.0,
        ge=0,
        description="Times KL(theta_k || theta) in nats, divided by the site's images, added to its loss: theta_k is "
        "then a variational posterior with the global theta as its prior; 0 is the paper.",
    )
    head_finetune_rounds: int = Field(
        0, ge=0, description="In so many of the last rounds clients train the head too, and the server averages it."
    )

    @classmethod
    def offers(cls) -> Iterable[type[Section]]:
        """Of each optimiser, and of rounds that train the head."""
        return GradientStepsSection, AdamSection, HeadTrainingSection

    def brings(self) -> Iterable[type[Section]]:
        """Of the optimiser, and of rounds that train the head, where there are some."""
        steps: type[Section] = GradientStepsSection if self.score_optimiser == "sgd" else AdamSection
        return [steps] + [HeadTrainingSection] * (self.head_finetune_rounds > 0)


class GradientStepsSection(Section):
    """Of steps in proportion to the gradient."""

    title: ClassVar[str] = "DeltaMask, optimiser `sgd`"
    under: ClassVar[str] = "score-optimiser"

    score_step: float = Field(
        320.0,
        gt=0,
        description="The step on the scores in the first round for a batch of 16 images, as a vector, for one image "
        "with a random label, at a site with ten classes alike; less at others, by the entropy of their labels. So it "
        "goes with backbone, head, images and batches, and needs no search.",
    )
    score_step_final: float = Field(
        32.0, gt=0, description="The same in the last round; a cosine lies between, so that what is learnt settles."
    )
    score_momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of these steps, within a round.")


class AdamSection(Section):
    """Of Adam."""

    title: ClassVar[str] = "DeltaMask, optimiser `adam`"
    under: ClassVar[str] = "score-optimiser"

    learning_rate: float = Field(0.1, gt=0, description="Adam's step on the scores.")


class HeadTrainingSection(Section):
    """Of rounds that train the head."""

    title: ClassVar[str] = "DeltaMask, rounds that train the head"
    under: ClassVar[str] = "head-finetune-rounds"

    head_finetune_learning_rate: float = Field(0.001, gt=0, description="Adam's step on the head in these rounds.")


def frozen_head_rounds(run: Sections) -> int:
    """Rounds of masked training before those that train the head too."""
    return run[RoundsSection].num_server_rounds - run[DeltaMaskSection].head_finetune_rounds


def step_of(run: Sections, server_round: int) -> float:
    """The step of local training in a round: Adam's, or that of gradient steps before it is scaled."""
    if run[DeltaMaskSection].score_optimiser == "adam":
        return run[AdamSection].learning_rate
    keys = run[GradientStepsSection]
    return cosine(keys.score_step, keys.score_step_final, server_round, run[RoundsSection].num_server_rounds)
