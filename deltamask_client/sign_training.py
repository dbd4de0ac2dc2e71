"""Local training of signs: the client's part of HideNseek's learning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.models import Activations, Backbone, Head
from common.models.sign_network import SignNetwork
from common.uniforms import stream_key, uniforms
from deltamask_client.epochs import Fit, Progress, Recipe, run_epochs, silent

__all__ = ["SignResult", "initial_scores", "train_signs"]


@dataclass(frozen=True)
class SignResult:
    """What one client learnt in one round."""

    scores: NDArray[np.float32]
    """Of the kept weights, ``(n,)``."""
    fit: Fit

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Where the sign is +1, ``(n,)``."""
        return self.scores >= 0


def initial_scores(
    positive: NDArray[np.bool_], largest: float, seed: int, server_round: int, client: int
) -> NDArray[np.float32]:
    """Scores to start a round from: the global signs, with random sizes.

    Averages of signs would serve badly as scores: they are small where clients disagree and 1 where they agree, so that
    training turns all of the former and none of the latter. Sizes drawn anew for every client and round let each client
    turn other signs easily (our choice).

    Parameters
    ----------
    positive
        Where the global sign is +1, ``(n,)``.
    largest
        Sizes are uniform on (0, largest].
    seed, server_round, client
        Name the stream.
    """
    drawn = uniforms(stream_key(seed, server_round, client, "scores"), len(positive)).astype(np.float32)
    sizes = (drawn + 1) * np.float32(largest / 65_536)
    return np.where(positive, sizes, -sizes).astype(np.float32)


def train_signs(
    backbone: Backbone,
    network: SignNetwork,
    head: Head,
    activations: Activations,
    labels: NDArray[np.int64],
    scores: NDArray[np.float32],
    recipe: Recipe,
    *,
    seed: int,
    progress: Progress = silent,
) -> SignResult:
    """Train the scores of the kept weights; weights, biases and norms stay frozen.

    Parameters
    ----------
    backbone, network, head
        The pruned network; it is left with the trained scores.
    scores
        To start from, float32 ``(n,)``.
    activations, labels, recipe, seed, progress
        As for `deltamask_client.training.train_masks`.
    """
    network.load(head, scores)
    fit = run_epochs(
        backbone.tail,
        network.logits,
        network.parameters(),
        activations,
        labels,
        recipe,
        seed=seed,
        progress=progress,
    )
    return SignResult(network.scores(), fit)
