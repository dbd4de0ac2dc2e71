"""Trying again what failed for want of clients: a link that was down for an hour should not end a run of days."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from common.errors import RoundError

__all__ = ["Again"]

T = TypeVar("T")


@dataclass(frozen=True)
class Again:
    """Tries what may fail for want of clients.

    Parameters
    ----------
    retries
        How often it is tried again.
    wait_seconds
        How long to wait before that.
    say
        Hears of each failure.
    """

    retries: int = 0
    wait_seconds: float = 0.0
    say: Callable[[str], None] = print

    def __call__(self, action: Callable[[], T]) -> T:
        """The action's result; raises RoundError when it has failed once more than it may."""
        for left in range(self.retries, -1, -1):
            try:
                return action()
            except RoundError as error:
                if not left:
                    raise
                self.say(f"  {error}; trying again in {self.wait_seconds:g} s ({left} left)")
                time.sleep(self.wait_seconds)
        raise AssertionError
