"""Which clients there are: node ids are Flower's and change with every restart, client ids are ours and do not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from common.errors import PayloadError, RoundError, brief
from common.messages import HELLO, name_run, pack_classes, unpack_hello
from common.uniforms import SERVER_CLIENT, stream_seed
from deltamask_server.exchange import exchange

__all__ = ["Enrolment", "draw_sample"]

_POLL_SECONDS = 0.5


class Enrolment:
    """Asks every new node who it is, once, and refuses those whose frozen model differs from the server's, or who
    answer with an error, as a site does whose images are missing or of other classes.

    Parameters
    ----------
    backbone_digest, masked_parameters
        What a client must have too.
    min_clients, wait_seconds
        How many clients are needed, and how long to wait for them.
    say
        Receives one line for each refusal.
    classes
        Class list of the run, which a site's own images must fit.
    first_run
        Flower's number of a resumed run as it was first started (`common.messages.name_run`); None: it is not resumed.
    """

    def __init__(
        self,
        backbone_digest: bytes,
        masked_parameters: int,
        min_clients: int,
        wait_seconds: float,
        say: Callable[[str], None],
        classes: Sequence[str] = (),
        first_run: int | None = None,
    ) -> None:
        self._digest, self._d = backbone_digest, masked_parameters
        self._min_clients, self._wait_seconds, self._say = min_clients, wait_seconds, say
        self._classes, self.first_run = tuple(classes), first_run
        self._clients: dict[int, int] = {}  # node id -> client id
        self._refused: dict[int, str] = {}  # node id -> reason
        self.holds: dict[int, bytes] = {}
        """Digest of the theta (or mask, by the run's method) that each client has kept, as far as it has said."""

    def online(self, grid: Grid) -> dict[int, int]:
        """Clients connected now, client id -> node id; waits, a bounded time, until there are enough.

        Raises
        ------
        RoundError
            If fewer than ``min_clients`` are there when the time is up.
        """
        end = time.monotonic() + self._wait_seconds
        while True:
            nodes = sorted(grid.get_node_ids())
            # Refusals end with the connection: whoever comes back may have been mended.
            self._refused = {node: reason for node, reason in self._refused.items() if node in nodes}
            self._ask(grid, [node for node in nodes if node not in self._clients and node not in self._refused], end)
            online = self.connected(nodes)
            if len(online) >= self._min_clients:
                return online
            if time.monotonic() >= end:
                refused = f"; refused: {'; '.join(sorted(set(self._refused.values())))}" if self._refused else ""
                raise RoundError(
                    f"{len(online)} usable clients after {self._wait_seconds:g} s, "
                    f"min-clients = {self._min_clients}{refused}. "
                    "Start more SuperNodes, or lower min-clients or raise node-wait-seconds."
                )
            time.sleep(_POLL_SECONDS)

    def connected(self, nodes: Collection[int]) -> dict[int, int]:
        """Those of the clients enrolled whose node is among ``nodes``, client id -> node id."""
        return {client: node for node, client in self._clients.items() if node in nodes}

    def _ask(self, grid: Grid, nodes: list[int], end: float) -> None:
        if not nodes:
            return
        messages = [Message(self._question(), dst_node_id=node, message_type=HELLO) for node in nodes]
        for reply in exchange(grid, messages, max(1.0, end - time.monotonic())):
            asked = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
            node = asked.get(reply.metadata.reply_to_message_id)
            if node is None:
                continue
            reason = self._judge(node, reply)
            if reason:
                self._refused[node] = reason
                self._say(f"node {node} refused: {reason}")

    def _question(self) -> RecordDict:
        content = pack_classes(self._classes)
        name_run(content, self.first_run)
        return content

    def _judge(self, node: int, reply: Message) -> str | None:
        """Enrol the node, or say why not."""
        if reply.has_error():
            return f"it answered with an error: {brief(reply.error.reason)}"
        try:
            hello = unpack_hello(reply.content)
        except PayloadError as error:
            return brief(error)
        if (hello.backbone_digest, hello.masked_parameters) != (self._digest, self._d):
            return (
                f"client {hello.client} has other frozen weights than the server (digest {hello.backbone_digest.hex()} "
                f"with {hello.masked_parameters:,} masked, here {self._digest.hex()} with {self._d:,}); give both the "
                "same backbone, weights, image-size and masked-blocks"
            )
        # A restarted SuperNode comes back under a new node id, long before Flower notices that the old one is gone: the
        # newest stands.
        for other in [other for other, client in self._clients.items() if client == hello.client]:
            self._say(
                f"client {hello.client} is now node {node}, no longer {other}: "
                "a restart, or two SuperNodes with one partition-id"
            )
            del self._clients[other]
            self._refused[other] = f"its partition-id {hello.client} was taken over by node {node}"
        self._clients[node] = hello.client
        self.note_holding(hello.client, hello.holds)
        return None

    def note_holding(self, client: int, digest: bytes | None) -> None:
        """Remember what a client says it holds, or that it holds nothing."""
        if digest is None:
            self.holds.pop(client, None)
        else:
            self.holds[client] = digest


def draw_sample(online: Collection[int], participation: float, quorum: int, seed: int, server_round: int) -> list[int]:
    """Clients of a round, in the order drawn, which gives each its slot: a share of those connected, rounded up, at
    least ``quorum``.
    """
    count = max(quorum, math.ceil(participation * len(online) - 1e-9))
    rng = np.random.default_rng(stream_seed(seed, server_round, SERVER_CLIENT, "sample"))
    return [int(client) for client in rng.permutation(sorted(online))[:count]]
