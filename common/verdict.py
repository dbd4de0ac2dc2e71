"""What a client's part of a round counts for, where others judge it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import NamedTuple

__all__ = ["Verdict", "many_examples", "worst_first"]

_MOST_LEFT_OUT = 1 / 3
"""Of the clients. Where more disagree with the rest, there is no telling who is right."""


class Verdict(NamedTuple):
    """What a client counts for."""

    factor: float = 1.0
    """In [0, 1]: of its weight; 0: it is left out."""
    reason: str = ""
    """Empty where it counts in full."""


def many_examples(examples: int, usual: float) -> str:
    """The reason of a client that gives more examples than it counts for; ``usual`` is the median client's number."""
    return f"{examples:,} examples, {examples / usual:.1f} times the median"


def worst_first(
    clients: Collection[int],
    out: Collection[int],
    judge: Callable[[list[int]], dict[int, float]],
    disagrees: Callable[[int, dict[int, float]], bool],
) -> dict[int, float]:
    """Leave out one client after another, each judged beside those that are left, at most a third in all.

    Parameters
    ----------
    clients, out
        All of them, and those that are out already.
    judge
        How much each of some clients agrees with the others; it may leave out those that cannot be judged.
    disagrees
        Whether the one that agrees least is to go, by what all have.

    Returns
    -------
    Whoever was left out, and how much it agreed.
    """
    found: dict[int, float] = {}
    while len(out) + len(found) < math.floor(_MOST_LEFT_OUT * len(clients)):
        agreements = judge([client for client in clients if client not in out and client not in found])
        worst = min(agreements, key=lambda client: (agreements[client], client), default=None)
        if worst is None or not disagrees(worst, agreements):
            break
        found[worst] = agreements[worst]
    return found
