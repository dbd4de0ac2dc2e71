"""The head on the features, by the run key ``head``. A new kind is a file of its own and a line in `HEADS`."""

from __future__ import annotations

from common.models.heads.base import FittedHead, Head, HeadKind, Statistics
from common.models.heads.linear_probe import LinearProbe
from common.models.heads.mean import ClassMean
from common.models.heads.random_head import RandomHead
from common.models.heads.ridge import Ridge

__all__ = ["HEADS", "FittedHead", "Head", "HeadKind", "Statistics"]

HEADS: dict[str, type[HeadKind]] = {kind.name: kind for kind in (LinearProbe, Ridge, ClassMean, RandomHead)}
