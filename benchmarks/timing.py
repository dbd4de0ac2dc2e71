"""Timing on a machine that does other things too: the best of several runs, and one core where that is the question."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["best_of", "one_core"]


def best_of(times: int, run: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Shortest time of several runs, in seconds. Where one thread works, `time.process_time` leaves out other work."""
    seconds = []
    for _ in range(times):
        begun = clock()
        run()
        seconds.append(clock() - begun)
    return max(min(seconds), 1e-9)


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this thread, and those it starts, on one core; our loops then start one thread. Linux only."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
