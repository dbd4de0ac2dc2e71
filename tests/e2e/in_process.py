"""The app without processes: ServerApp and ClientApps called as Flower calls them, in this one, over a Grid in memory.

What SuperLink, SuperNodes and gRPC are compared with where a simulation cannot serve: its clients have one config.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict

from common.config.run import RunConfig
from deltamask_client.app import app as client_app
from deltamask_server.app import app as server_app
from tests.grid import MemoryGrid, Node

__all__ = ["as_text", "run_in_process"]

Config = Mapping[str, str | int | float | bool]


def as_text(config: Config) -> str:
    """A config as it stands behind --run-config and --node-config."""
    return " ".join(f"{key}={json.dumps(value)}".replace('"', "'") for key, value in config.items())


def run_in_process(folder: Path, config: Config, nodes: Sequence[Config]) -> dict[str, Any]:
    """Run the app with a client for each node config: its results.json."""
    values = {key.replace("-", "_"): value for key, value in config.items()} | {"output_dir": str(folder / "runs")}
    run_config = RunConfig(**values).as_dict()

    def client(node_config: Config) -> Node:
        everything = {"cache-dir": str(folder / "cache"), **node_config}
        return lambda message: [client_app(message, Context(1, 1, dict(everything), RecordDict(), run_config))]

    grid = MemoryGrid({100 + number: client(node) for number, node in enumerate(nodes)})
    server_app(grid, Context(1, 1, {}, RecordDict(), run_config))
    results: dict[str, Any] = json.loads((folder / "runs" / "latest" / "results.json").read_text())
    return results
