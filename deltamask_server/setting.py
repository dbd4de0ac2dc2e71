"""What every method's strategy is made with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config.run import RunConfig
from common.config.shared import LimitsSection
from common.data.config import PatienceSection
from common.models.backbone import Backbone
from deltamask_server.again import Again
from deltamask_server.closing import Closing
from deltamask_server.enrolment import Enrolment
from deltamask_server.limits import ClientLimits

__all__ = ["Setting"]


@dataclass(frozen=True, eq=False)
class Setting:
    """The run, its network, its classes, and who takes part."""

    run: RunConfig
    backbone: Backbone
    classes: tuple[str, ...]
    """Names of the outputs; for datasets without names their numbers."""
    enrolment: Enrolment
    kept: NDArray[np.bool_] | None = None
    """What pruning has left (`deltamask_server.rounds.RoundStrategy.prune`); None if the method does not prune."""

    @property
    def options(self) -> dict[str, Any]:
        """What `deltamask_server.rounds.RoundStrategy` takes, as keywords."""
        run = self.run
        return {
            "classes": len(self.classes),
            "features": self.backbone.features,
            "head_kind": run.head_kind,
            "class_names": self.classes,
            "validate": run.data.validation_fraction > 0,
            "patience": run[PatienceSection].patience,
            "personal_test": run.evaluation.personal_test,
            "seed": run.rounds.seed,
            "limits": ClientLimits.from_config(run[LimitsSection]),
            "closing": Closing.from_config(run.rounds),
            "again": Again(run.rounds.round_retries, run.rounds.retry_wait_seconds),
        }
