"""What is attacked: targets, and the receivers that each consists of."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from common.errors import PayloadError

__all__ = ["TABLES", "Case", "Input", "Target", "memory_for"]

TABLES = 16 << 20
"""Bytes that a decoder may take whatever d is: tables of the 16-bit grid, of 65,536 contexts, of zlib and Pillow."""


def memory_for(d: int) -> int:
    """Most bytes of memory that reading may take for so many masked weights (docs/wire-format.md)."""
    return TABLES + 64 * d


@dataclass(frozen=True)
class Case:
    """A receiver."""

    name: str
    """What it knows, and does, in a few words."""
    honest: tuple[bytes, ...]
    """Inputs that it must take."""
    change: Callable[[Generator], bytes]
    """Makes an input that it may refuse."""
    read: Callable[[bytes], object]
    """What is attacked. It checks what it has read, too, by assertions."""
    errors: tuple[type[Exception], ...] = (PayloadError,)
    """Those that it may raise."""
    memory: int = TABLES
    """Most bytes of memory that it may take."""
    weight: float = 1.0
    """How often it is chosen among the cases of its target."""


@dataclass(frozen=True)
class Input:
    """Bytes for one case of a target."""

    case: int
    data: bytes


@dataclass(frozen=True)
class Target:
    """A decoder."""

    name: str
    cases: Sequence[Case]

    @functools.cached_property
    def honest(self) -> list[Input]:
        """What nobody has changed."""
        return [Input(number, data) for number, case in enumerate(self.cases) for data in case.honest]

    def input(self, seed: int, number: int) -> Input:
        """One of the inputs of a run; the first are the honest ones.

        Parameters
        ----------
        seed
            The run's.
        number
            From 0 on.
        """
        if number < len(self.honest):
            return self.honest[number]
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode()), number])
        case = int(np.searchsorted(self._shares, rng.random(), side="right"))
        return Input(case, self.cases[case].change(rng))

    @functools.cached_property
    def _shares(self) -> np.ndarray:
        weights = np.cumsum([case.weight for case in self.cases])
        return weights[:-1] / weights[-1]
