"""Head ``mean``: the nearest class mean as a linear head, the same for every split of the data.

The nearest mean (Mensink et al. 2013) has the largest ``x . mean - |mean|^2 / 2``. Clients send class means, counts and
one number more; no matrix.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from common.models.heads.base import Head, softmax_head
from common.models.heads.moment_head import MomentHead
from common.models.heads.moments import Moments

__all__ = ["ClassMean", "mean_temperature"]

_SHARPNESS = 7.0
"""Measured, see docs/algorithm.md."""


class ClassMean(MomentHead):
    """Nearest class mean from summed moments."""

    name: ClassVar[str] = "mean"
    title: ClassVar[str] = "class-mean head"
    matrix: ClassVar[bool] = False

    def head_of(self, moments: Moments) -> Head:
        """Class means of all examples, as a head."""
        # Seen from the mean of all features: distances are the same, and their squares do not swamp the differences.
        means = moments.means - moments.mean
        weight = np.where((moments.counts > 0)[:, None], means, 0.0)
        bias = -(weight**2).sum(1) / 2 - weight @ moments.mean
        return softmax_head(weight, bias, moments.counts, mean_temperature(moments))


def mean_temperature(moments: Moments) -> float:
    """A seventh of the features' standard deviation times the root mean square distance between two class means; 1 if
    all means are one.

    A difference of logits ``(mean_1 - mean_2) . x`` is such a product, and so changes with the scale of the features as
    it must.
    """
    seen = moments.means[moments.counts > 0]
    # Over all ordered pairs of different classes, by the identity sum |a - b|^2 = 2 k sum |a - centre|^2.
    distance = 2 * float(((seen - seen.mean(0)) ** 2).sum()) / max(1, len(seen) - 1)
    variance = float(moments.total) / float(moments.counts.sum())
    return math.sqrt(variance * distance) / _SHARPNESS or 1.0
