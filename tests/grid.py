"""A Grid in memory: messages go to functions, replies come back as Flower delivers them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

Node = Callable[[Message], list[Message]]


class MemoryGrid(Grid):
    """Nodes are functions from a message to its replies (none, one, or more than the protocol allows)."""

    def __init__(self, nodes: dict[int, Node]) -> None:
        self.nodes = nodes
        self.sent: list[Message] = []
        self._inbox: list[Message] = []
        self._numbers = count()

    def set_run(self, run: object) -> None:
        raise NotImplementedError

    @property
    def run(self) -> object:
        raise NotImplementedError

    def create_message(self, *args: object, **kwargs: object) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{next(self._numbers)}"
            ids.append(message.metadata.message_id)
            self.sent.append(message)
            self._inbox += self.nodes[message.metadata.dst_node_id](message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        # Arrival is chance: the last one sent comes first here.
        wanted = set(message_ids)
        ready = [reply for reply in self._inbox if reply.metadata.reply_to_message_id in wanted]
        self._inbox = [reply for reply in self._inbox if reply not in ready]
        return ready[::-1]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError


def answer(message: Message, content: RecordDict | Error) -> Message:
    """A reply; its content is its own, as it is behind a network."""
    return Message(RecordDict(dict(content)) if isinstance(content, RecordDict) else content, reply_to=message)
