"""Local training of signs: the client's part of HideNseek's learning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.methods.hidenseek.sign_network import SignNetwork
from common.models.activations import Activations
from common.models.backbone import Backbone
from common.models.heads import Head
from deltamask_client.epochs import Fit, Progress, Recipe, run_epochs, silent

__all__ = ["SignResult", "train_signs"]


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
        As for `deltamask_client.methods.deltamask.training.train_masks`.
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
