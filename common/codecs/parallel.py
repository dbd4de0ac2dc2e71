"""Ranges of positions on all cores: compiled loops release the interpreter lock, so threads are enough."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

__all__ = ["for_each", "for_parts", "split"]

_SMALLEST = 1 << 18


def split(stop: int, smallest: int = _SMALLEST) -> list[tuple[int, int]]:
    """Ranges ``(start, stop)`` that cover ``0 .. stop - 1`` in order: a few for each core, none shorter than
    ``smallest`` but the last.
    """
    size = max(smallest, -(-stop // (4 * _cores())))
    return [(start, min(start + size, stop)) for start in range(0, stop, size)]


def for_each(work: Callable[[int], None], count: int) -> None:
    """Call ``work(0) .. work(count - 1)``, in any order, from several threads when there is more than one call."""
    if count <= 1:
        for index in range(count):
            work(index)
        return
    with ThreadPoolExecutor(min(count, _cores())) as pool:
        list(pool.map(work, range(count)))


def for_parts(work: Callable[..., None], parts: Iterable[tuple[Any, ...]]) -> None:
    """Call ``work(*part)`` for every part, as `for_each` does."""
    listed = list(parts)
    for_each(lambda index: work(*listed[index]), len(listed))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
