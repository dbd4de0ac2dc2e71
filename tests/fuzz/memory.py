"""The most memory that some inputs took, what zlib, Pillow and compiled code took included."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

from tests.attacks.decode_many import memory

__all__ = ["MEASURED", "peak_of"]

_RESET = Path("/proc/self/clear_refs")
MEASURED = _RESET.exists()
"""Whether this machine tells: Linux does."""
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if MEASURED else None


def peak_of(work: Callable[[], object]) -> int:
    """Bytes by which this process was larger, at most, while it worked than it was before; 0 where that is not told.

    What earlier work has freed is given back first: memory that is used again would not be seen.
    """
    if not MEASURED:
        work()
        return 0
    if _trim is not None:
        _trim(0)
    _RESET.write_text("5")  # the highest mark starts again from here
    before = memory("VmRSS")
    work()
    return memory("VmHWM") - before
