"""``random``: a classifier that is not fitted, for networks trained from scratch. Nothing is sent for it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from common.models.heads.base import Head, HeadKind
from common.models.kaiming import kaiming_uniform
from common.uniforms import SERVER_CLIENT, stream_key

__all__ = ["RandomHead"]


class RandomHead(HeadKind):
    """Kaiming-uniform weights (`common.models.kaiming`), bias 0: the same on every machine."""

    name: ClassVar[str] = "random"
    title: ClassVar[str] = "random head"
    fitted: ClassVar[bool] = False

    def start(self, classes: int, features: int, seed: int) -> Head:
        """Draw it from the run seed."""
        weight = kaiming_uniform(stream_key(seed, 0, SERVER_CLIENT, "head"), (classes, features))
        return Head(weight, np.zeros(classes, np.float32))
