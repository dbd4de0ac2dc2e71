"""Every target by its name."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz.case import Target
from tests.fuzz.checkpoints import checkpoint_target
from tests.fuzz.downwards import downward_targets
from tests.fuzz.heads import head_targets
from tests.fuzz.payloads import payload_targets
from tests.fuzz.records import record_targets
from tests.fuzz.thetas import theta_targets

__all__ = ["TARGETS"]

TARGETS: dict[str, Callable[[], Target]] = {
    **payload_targets(),
    **theta_targets(),
    **downward_targets(),
    **head_targets(),
    **record_targets(),
    "checkpoint": checkpoint_target,
}
"""Made when they are asked for."""
