"""The server: a Flower Strategy that decodes deltas and aggregates masks by a Beta posterior, evaluation, and what a
run writes. Tools that are no part of a run are in `deltamask_server.tools`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load_finetuned"]


def load_finetuned(path: str | Path, weights: str | None = None, device: str = "cpu") -> nn.Module:
    """Load a fine-tuned model; see `deltamask_server.tools.finetuned.load_finetuned`."""
    from deltamask_server.tools import finetuned  # here: torch takes seconds to import, and not everybody needs it

    return finetuned.load_finetuned(path, weights, device)
