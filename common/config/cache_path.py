"""Where a machine keeps what it need not compute or be sent again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["default_cache_path"]


def default_cache_path() -> Path:
    """``$XDG_CACHE_HOME/deltamask``, ``~/.cache/deltamask``, or a folder in the temporary directory for users without a
    home.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "deltamask"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "deltamask"
