"""``random``: a classifier that is not fitted, for networks trained from scratch. Nothing is sent for it."""

from __future__ import annotations

import numpy as np

from common.models.heads.base import Head
from common.models.kaiming import kaiming_uniform
from common.uniforms import SERVER_CLIENT, stream_key

__all__ = ["RANDOM_HEAD", "random_head"]

RANDOM_HEAD = "random"
"""Its value of the run key ``head``."""


def random_head(classes: int, features: int, seed: int) -> Head:
    """Kaiming-uniform weights (`common.models.kaiming`), bias 0: the same on every machine.

    Parameters
    ----------
    classes, features
        Shape of the weight.
    seed
        Run seed.
    """
    weight = kaiming_uniform(stream_key(seed, 0, SERVER_CLIENT, "head"), (classes, features))
    return Head(weight, np.zeros(classes, np.float32))
