"""Which process runs a run, so that one that was killed is not believed to run for ever."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["is_gone", "this_process"]


def this_process() -> dict[str, Any]:
    """For results.json: host, number, and when it began."""
    return {"process": _process(os.getpid())}


def is_gone(results: Mapping[str, Any]) -> bool:
    """Whether the process that wrote these results has ended, as far as this machine can tell."""
    process = results.get("process") or {}
    if process.get("host") != platform.node() or not Path("/proc/self/stat").is_file():
        return False
    return bool(_process(int(process["pid"])) != process)


def _process(pid: int) -> dict[str, Any]:
    """What tells a process from another one of the same number; ``began`` is None where there is none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {"host": platform.node(), "pid": pid, "began": None}
    ticks = status.rpartition(")")[2].split()[19]  # field 22; the second, in brackets, may hold blanks
    return {"host": platform.node(), "pid": pid, "began": f"{ticks} ticks after the start {boot}"}
