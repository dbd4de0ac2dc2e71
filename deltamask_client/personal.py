"""Personal accuracy: how good the model that a client has just trained is on test images like its own.

Li et al.: LotteryFL, arXiv 2008.03371, test each client's model on test images of the classes that the client has. No
training image is among them, and no client needs to hold any out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from common.config.node import NodeConfig
from common.config.run import RunConfig
from common.models.accuracy import loss_and_accuracy
from deltamask_client.images import test_images
from deltamask_client.site import Site, activations_of

__all__ = ["Personal", "personal_test"]


@dataclass(frozen=True)
class Personal:
    """What came of the test."""

    accuracy: float
    """Share named right, in [0, 1]."""
    images: int
    """At least 1."""


def personal_test(
    run: RunConfig, node: NodeConfig, server_round: int, site: Site, head: Callable[[torch.Tensor], torch.Tensor]
) -> Personal | None:
    """Test a site's network as it is now, with whatever weights or masks its tail has.

    Parameters
    ----------
    run, node
        Configs of the run and of this client.
    server_round
        The test belongs to the rounds that the server evaluates.
    site
        What the client has trained on; its labels say which classes are its own.
    head
        The head that goes with the tail: features to logits.

    Returns
    -------
    None if the run does not ask for it, the round is not evaluated, or the client brings images of its own (the run's
    test images are then not like them) or has no class that there are test images of.

    Raises
    ------
    DataError
        If the test images of the run's dataset cannot be had.
    """
    if not run.evaluation.personal_test or node.data or not run.evaluates(server_round):
        return None
    own = tuple(int(label) for label in np.unique(site.labels))
    found = test_images(
        run.data.dataset,
        run.data.test_limit,
        node.cache_path,
        site.classes,
        own,
        site.backbone.spec.size,
        run.data.black_and_white,
    )
    if len(found.labels) == 0:
        return None
    activations = activations_of(run, node, site.backbone, found.images, found.identity)
    _, accuracy = loss_and_accuracy(site.backbone.tail, head, activations, found.labels, run.evaluation.eval_batch_size)
    return Personal(accuracy, len(found.labels))
