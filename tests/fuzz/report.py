"""What a run shows while it goes on, and what is left of it."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.fuzz.run import Tally

__all__ = ["Progress", "line_of", "summary"]

_EVERY = 5.0
"""Seconds between two lines."""


class Progress:
    """A line every few seconds, of the target whose turn it was, and of all together."""

    def __init__(self) -> None:
        self._begun = self._shown = time.monotonic()

    def __call__(self, tallies: Mapping[str, Tally], name: str) -> None:
        """Hear of some decodes."""
        now = time.monotonic()
        if now - self._shown >= _EVERY:
            self._shown = now
            total = sum(tally.decodes for tally in tallies.values())
            print(f"{line_of(name, tallies[name])}; all: {total:,}, {total / (now - self._begun):,.0f}/s", flush=True)


def line_of(name: str, tally: Tally) -> str:
    """One target in a line."""
    rate = tally.decodes / tally.seconds if tally.seconds else 0.0
    return (
        f"{name:24} {tally.decodes:>9,} decodes, {tally.accepted:>8,} accepted, {tally.refused.total():>9,} refused, "
        f"{tally.findings:>3,} findings, slowest {tally.slowest:.3f} s, {tally.peak / 1e6:5.1f} MB, {rate:>7,.0f}/s"
    )


def summary(tallies: Mapping[str, Tally], seed: int, seconds: float) -> dict[str, Any]:
    """A run for ``--json``."""
    total = sum(tally.decodes for tally in tallies.values())
    return {
        "seed": seed,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "times": total,
        "findings": sum(tally.findings for tally in tallies.values()),
        "seconds": round(seconds, 1),
        "decodes a second": round(total / seconds, 1),
        "targets": {
            name: {
                "times": tally.decodes,
                "accepted": tally.accepted,
                "refused": dict(sorted(tally.refused.items())),
                "findings": tally.findings,
                "slowest seconds": round(tally.slowest, 4),
                "peak memory bytes": tally.peak,
            }
            for name, tally in tallies.items()
        },
    }
