"""A Grid in memory: messages go to functions, replies come back as Flower delivers them."""

from __future__ import annotations

from flwr.app import Error, Message, RecordDict

from benchmarks.in_process import MemoryGrid, Node

__all__ = ["MemoryGrid", "Node", "answer"]


def answer(message: Message, content: RecordDict | Error) -> Message:
    """A reply; its content is its own, as it is behind a network."""
    return Message(RecordDict(dict(content)) if isinstance(content, RecordDict) else content, reply_to=message)
