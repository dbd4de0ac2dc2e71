"""What a client's part of a round counts for, where others judge it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Verdict"]


class Verdict(NamedTuple):
    """What a client counts for."""

    factor: float = 1.0
    """In [0, 1]: of its weight; 0: it is left out."""
    reason: str = ""
    """Empty where it counts in full."""
