"""What the DeltaMask server and its clients must agree on: shared randomness, masks, codecs, posterior, wire format,
config.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load_finetuned"]

__version__ = "0.1.0"


def load_finetuned(path: str | Path, weights: str = "default", device: str = "cpu") -> nn.Module:
    """Load a fine-tuned model; see `common.finetuned.load_finetuned`."""
    from common import finetuned  # here: torch takes seconds to import, and not everybody needs it

    return finetuned.load_finetuned(path, weights, device)
