"""The app without processes: ServerApp and ClientApps called as Flower calls them, in this one, over a Grid in memory.

Twice as fast as a simulation on two cores, since nothing is started, and equal to it by the digests of every round:
tests/e2e compares them. For long experiments, and for tests of clients with configs of their own, which a simulation
cannot have.
"""

from __future__ import annotations

import argparse
import json
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from common.config.run import RunConfig
from deltamask_client.app import app as client_app
from deltamask_server.app import app as server_app

__all__ = ["Config", "MemoryGrid", "Node", "run_in_process"]

Config = Mapping[str, str | int | float | bool]
Node = Callable[[Message], list[Message]]


class MemoryGrid(Grid):
    """Nodes are functions from a message to its replies (none, one, or more than the protocol allows)."""

    def __init__(self, nodes: dict[int, Node]) -> None:
        self.nodes = nodes
        self.sent: list[Message] = []
        self._inbox: list[Message] = []
        self._numbers = count()

    def set_run(self, run: object) -> None:
        """Not of this Grid."""
        raise NotImplementedError

    @property
    def run(self) -> object:
        """Not of this Grid."""
        raise NotImplementedError

    def create_message(self, *args: object, **kwargs: object) -> Message:
        """Not of this Grid."""
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        """Every node."""
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Call the nodes."""
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{next(self._numbers)}"
            ids.append(message.metadata.message_id)
            self.sent.append(message)
            self._inbox += self.nodes[message.metadata.dst_node_id](message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """What they have answered."""
        # Arrival is chance: the last one sent comes first here.
        wanted = set(message_ids)
        ready = [reply for reply in self._inbox if reply.metadata.reply_to_message_id in wanted]
        self._inbox = [reply for reply in self._inbox if reply not in ready]
        return ready[::-1]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Not of this Grid."""
        raise NotImplementedError


def run_in_process(
    folder: Path,
    config: Config,
    nodes: Sequence[Config],
    cache: Path | None = None,
    run_id: int = 1,
    wrap: Callable[[int, Node], Node] = lambda number, node: node,
    make_grid: Callable[[dict[int, Node]], MemoryGrid] = MemoryGrid,
) -> dict[str, Any]:
    """Run the app with a client for each node config: its results.json.

    Parameters
    ----------
    folder
        Gets ``runs``, and ``cache`` unless there is another one.
    config
        What differs from the defaults of the run config.
    nodes
        Node configs.
    cache
        Where clients keep what they need not compute again, also for other runs.
    run_id
        Flower's number of the run: of runs that share a cache at the same time, each has its own.
    wrap
        Puts another node in the place of that of a number, from 0.
    make_grid
        Makes the Grid of nodes by their Flower numbers.
    """
    # as Flower does where it starts an app
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, 1
    values = {key.replace("-", "_"): value for key, value in config.items()} | {"output_dir": str(folder / "runs")}
    run_config = RunConfig(**values).as_dict()

    def client(node_config: Config) -> Node:
        own = {"cache-dir": str(cache or folder / "cache"), "account-dir": str(folder / "account")}
        everything = own | dict(node_config)
        return lambda message: [client_app(message, Context(run_id, 1, dict(everything), RecordDict(), run_config))]

    grid = make_grid({100 + number: wrap(number, client(node)) for number, node in enumerate(nodes)})
    server_app(grid, Context(run_id, 1, {}, RecordDict(), run_config))
    results: dict[str, Any] = json.loads((folder / "runs" / "latest" / "results.json").read_text())
    return results


def main() -> None:
    """Run a config file with a client for each node config; writes ``runs`` into the working folder."""
    parser = argparse.ArgumentParser(description="The app in one process, without Flower's servers.")
    parser.add_argument("config", type=Path, help="a run config, as TOML")
    parser.add_argument("nodes", type=Path, help="a list of node configs, as JSON")
    parser.add_argument("--cache", type=Path, help="cache folder that other runs share")
    args = parser.parse_args()
    config = tomllib.loads(args.config.read_text(encoding="utf-8"))
    run_in_process(Path.cwd(), config, json.loads(args.nodes.read_text(encoding="utf-8")), args.cache, os.getpid())


if __name__ == "__main__":
    main()
