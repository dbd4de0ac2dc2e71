"""Progress of what takes long, in the SuperNode's log."""

from __future__ import annotations

import logging
import time

__all__ = ["SlowLog"]

_log = logging.getLogger("flwr")


class SlowLog:
    """Log a line every few seconds, the first after as many: what is quick says nothing.

    Parameters
    ----------
    line
        With a ``%s`` for each value of a call; they are formatted only where it is logged.
    seconds
        From one line to the next.
    """

    def __init__(self, line: str, seconds: float = 10.0) -> None:
        self._line, self._seconds, self._last = line, seconds, time.monotonic()

    def __call__(self, *values: object) -> None:
        """Log the values, if it is time."""
        if time.monotonic() - self._last >= self._seconds:
            self._last = time.monotonic()
            _log.info(self._line, *values)
