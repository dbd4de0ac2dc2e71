"""Which clients there are: node ids are Flower's and change with every restart, client ids are ours and do not."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from common.errors import PayloadError, RoundError, brief
from common.messages import HELLO, name_run, pack_classes, unpack_hello
from common.uniforms import SERVER_CLIENT, stream_seed
from deltamask_server.transfer_limit import limit_transfers

__all__ = ["Enrolment", "draw_sample"]

_FIRST_POLL, _SLOWEST_POLL = 0.05, 0.5
_PASSING = {3, 4, 5}
"""Flower's error codes of a message or a reply that was lost, and of a node that was away: it is asked again."""


@dataclass(frozen=True)
class _Question:
    """A node that was asked who it is, and has not answered yet."""

    node: int
    until: float
    """Up to when it is waited for; monotonic."""


class Enrolment:
    """Asks every new node who it is, and refuses those whose frozen model differs from the server's, who divide the
    run's images into another number of parts than most do, or who answer with an error, as a site does whose images are
    missing or of other classes.

    Every node is waited for once. One that does not answer is mute: it is asked again from time to time, and takes part
    from the round after its answer, but no round waits for it.

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
    bound
        Whether a client's id belongs to the first node that names it, for the whole run. With node authentication a
        node is its key, and keeps its id when it restarts; without, whoever restarts is another node.
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
        bound: bool = False,
    ) -> None:
        self._digest, self._d = backbone_digest, masked_parameters
        self._min_clients, self._wait_seconds, self._say = min_clients, wait_seconds, say
        self._classes, self.first_run, self._bound = tuple(classes), first_run, bound
        self._clients: dict[int, int] = {}  # node id -> client id
        self._refused: dict[int, str] = {}  # node id -> reason
        self._asked: dict[str, _Question] = {}  # message id -> whom
        self._mute: dict[int, float] = {}  # node id -> when it is asked again; monotonic
        self.holds: dict[int, bytes] = {}
        """Digest of the theta (or mask, by the run's method) that each client has kept, as far as it has said."""
        self.files: dict[int, Mapping[str, int]] = {}
        """What became of the files of each client that has a folder of its own (`common.messages.Hello.files`)."""
        self._partitions: dict[int, int] = {}  # client id -> into how many parts it divides the run's images
        self._divided: int | None = None  # into how many they are divided in this run, once it has begun
        self.owners: dict[int, int] = {}
        """Node that each client's id belongs to; of runs that bind them."""

    def online(self, grid: Grid) -> dict[int, int]:
        """Clients connected now, client id -> node id; waits, a bounded time, until there are enough, and until every
        node has answered that was not asked before.

        Raises
        ------
        RoundError
            If fewer than ``min_clients`` are there when the time is up, or as soon as all that are connected were
            refused and are enough.
        """
        begun, pause = time.monotonic(), _FIRST_POLL
        while True:
            nodes, now = set(grid.get_node_ids()), time.monotonic()
            self._forget_absent(nodes)
            self._ask(grid, nodes, now)
            self._hear(grid)
            waiting = any(question.until > now for question in self._asked.values())
            if len(self.connected(nodes)) >= self._min_clients and not waiting:
                self._agree_on_partitions(nodes)
            online = self.connected(nodes)
            if len(online) >= self._min_clients and not waiting:
                return online
            hopeless = len(nodes) >= self._min_clients and nodes <= self._refused.keys()
            if hopeless or now - begun >= self._wait_seconds:
                self._agree_on_partitions(nodes)
                online = self.connected(nodes)
                if len(online) >= self._min_clients:
                    return online
                raise RoundError(self._too_few(len(online), now - begun))
            time.sleep(pause)
            pause = min(_SLOWEST_POLL, pause * 1.5)

    def connected(self, nodes: Collection[int]) -> dict[int, int]:
        """Those of the clients enrolled whose node is among ``nodes``, client id -> node id."""
        return {client: node for node, client in self._clients.items() if node in nodes}

    def _too_few(self, usable: int, seconds: float) -> str:
        refused = "; ".join(sorted(set(self._refused.values())))
        mute = f"; {len(self._mute)} connected nodes do not answer" if self._mute else ""
        return (
            f"{usable} usable clients after {seconds:.1f} s, min-clients = {self._min_clients}"
            + (f"; refused: {refused}" if refused else "")
            + f"{mute}. Start more SuperNodes, or lower min-clients or raise node-wait-seconds."
        )

    def _forget_absent(self, nodes: Collection[int]) -> None:
        # Refusals end with the connection: whoever comes back may have been mended.
        self._refused = {node: reason for node, reason in self._refused.items() if node in nodes}
        self._mute = {node: when for node, when in self._mute.items() if node in nodes}
        self._asked = {name: question for name, question in self._asked.items() if question.node in nodes}

    def _ask(self, grid: Grid, nodes: Collection[int], now: float) -> None:
        """Ask those who are new, and those again who are mute; nobody waits for the latter."""
        for node in {question.node for question in self._asked.values() if question.until <= now} - self._mute.keys():
            self._say(f"node {node} does not say who it is; the rounds go on without it")
            self._mute[node] = now + self._wait_seconds
        waited_for = {question.node for question in self._asked.values()} - self._mute.keys()
        known = self._clients.keys() | self._refused.keys() | waited_for
        due = [node for node in sorted(nodes) if node not in known and self._mute.get(node, now) <= now]
        messages = [Message(self._question(), dst_node_id=node, message_type=HELLO) for node in due]
        for node, name in zip(due, grid.push_messages(messages), strict=True) if due else ():
            mute = node in self._mute
            if mute:
                self._mute[node] = now + self._wait_seconds
            if name:
                self._asked[name] = _Question(node, now if mute else now + self._wait_seconds)

    def _hear(self, grid: Grid) -> None:
        """Take the answers that have come."""
        limit_transfers(grid, 0)
        for reply in grid.pull_messages(list(self._asked)) if self._asked else ():
            question = self._asked.get(reply.metadata.reply_to_message_id)
            if question is None:
                continue
            node = question.node
            self._asked = {name: other for name, other in self._asked.items() if other.node != node}
            if reply.has_error() and reply.error.code in _PASSING:
                self._mute.setdefault(node, time.monotonic())
                continue
            self._mute.pop(node, None)
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
        if self._bound and self.owners.setdefault(hello.client, node) != node:
            return (
                f"its partition-id {hello.client} belongs to node {self.owners[hello.client]}, which named it first "
                "(bind-clients)"
            )
        if self._divided is not None and hello.partitions not in (None, self._divided):
            return _other_partitions(hello.client, hello.partitions, self._divided)
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
        self._partitions.pop(hello.client, None)
        if hello.partitions is not None:
            self._partitions[hello.client] = hello.partitions
        self.files.pop(hello.client, None)
        if hello.files:
            self.files[hello.client] = hello.files
        self.note_holding(hello.client, hello.holds)
        return None

    def _agree_on_partitions(self, nodes: Collection[int]) -> None:
        """Of the clients that share the run's images, refuse those that divide them into another number of parts than
        most: they would train on images of others, and some on none. Once a run has begun its number stands. Where as
        many clients say one thing as another there is no telling who is wrong, and both are refused.
        """
        sharing = {
            client: (node, self._partitions[client])
            for client, node in self.connected(nodes).items()
            if client in self._partitions
        }
        if not sharing:
            return
        if self._divided is None:
            ranked = Counter(parts for _, parts in sharing.values()).most_common(2)
            if len(ranked) == 1 or ranked[0][1] > ranked[1][1]:
                self._divided = ranked[0][0]
        for client, (node, parts) in sharing.items():
            if parts != self._divided:
                others = self._divided or next(other for _, other in sharing.values() if other != parts)
                reason = _other_partitions(client, parts, others)
                del self._clients[node]
                self._refused[node] = reason
                self._say(f"node {node} refused: {reason}")

    def note_holding(self, client: int, digest: bytes | None) -> None:
        """Remember what a client says it holds, or that it holds nothing."""
        if digest is None:
            self.holds.pop(client, None)
        else:
            self.holds[client] = digest


def _other_partitions(client: int, parts: int | None, others: int) -> str:
    return (
        f"client {client} has num-partitions = {parts}, where others have {others}: parts of the run's images would "
        "overlap, and some be nobody's; start all SuperNodes without data of their own with the same number"
    )


def draw_sample(online: Collection[int], count: int, seed: int, server_round: int) -> list[int]:
    """So many of the clients connected, in the order drawn, which gives each its slot."""
    rng = np.random.default_rng(stream_seed(seed, server_round, SERVER_CLIENT, "sample"))
    return [int(client) for client in rng.permutation(sorted(online))[:count]]
