"""Check that this machine's clock is kept right, where systemd can say so."""

from __future__ import annotations

import shutil
import subprocess
from datetime import datetime
from pathlib import Path

from deltamask_server.tools.doctor.finding import Finding, failed, ok, warning

__all__ = ["check_clock"]

_NEVER_BEFORE = 2026
"""A clock without a battery starts at 1970, or when its system was built."""


def check_clock(now: datetime) -> Finding:
    """The time, and whether it is synchronised.

    Parameters
    ----------
    now
        The time by this machine's clock, with its zone.
    """
    found = f"{now:%Y-%m-%d %H:%M:%S} {now:%Z}"
    remedy = "timedatectl set-ntp true (apt-get install systemd-timesyncd), or set it: date -u -s '...'"
    if now.year < _NEVER_BEFORE:
        return failed("clock", f"{found}: never set", remedy)
    if shutil.which("timedatectl") and Path("/run/systemd/system").is_dir():
        asked = subprocess.run(
            ["timedatectl", "show", "--property=NTPSynchronized", "--value"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.stdout.strip() == "no":
            return warning("clock", f"{found}, not synchronised", remedy)
        if asked.stdout.strip() == "yes":
            return ok("clock", f"{found}, synchronised")
    return ok("clock", found)
