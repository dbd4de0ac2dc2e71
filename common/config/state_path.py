"""Where a machine keeps what must not be lost."""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import ConfigError

__all__ = ["default_state_path"]


def default_state_path() -> Path:
    """``$XDG_STATE_HOME/deltamask``, or ``~/.local/state/deltamask``.

    Raises
    ------
    ConfigError
        For users without a home.
    """
    base = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".local" / "state") / "deltamask"
    except RuntimeError as error:
        raise ConfigError(
            "node config: this user has no home folder; say with account-dir where to keep the account of what "
            "this client has shown"
        ) from error
