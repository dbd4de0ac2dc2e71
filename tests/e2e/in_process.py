"""What a deployment is compared with where a simulation cannot serve: its clients have one config."""

from __future__ import annotations

import json

from benchmarks.in_process import Config, run_in_process

__all__ = ["as_text", "run_in_process"]


def as_text(config: Config) -> str:
    """A config as it stands behind --run-config and --node-config."""
    return " ".join(f"{key}={json.dumps(value)}".replace('"', "'") for key, value in config.items())
