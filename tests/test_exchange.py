"""What the server holds while it waits: addresses of messages, not their contents, and few replies at a time."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterable
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from deltamask_server.exchange import exchange
from tests.federation import node, run_rounds, strategy
from tests.grid import MemoryGrid, Node, answer


class ForgetfulGrid(MemoryGrid):
    """Keeps no message, as a grid over a network does; and counts the replies that are alive."""

    def __init__(self, count: int) -> None:
        super().__init__({node: self.reply for node in range(count)})
        self.contents: list[weakref.ref[RecordDict]] = []
        self.pulled: list[int] = []

    def reply(self, message: Message) -> list[Message]:
        return [answer(message, RecordDict({"update": ConfigRecord({"node": message.metadata.dst_node_id})}))]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = super().push_messages(messages)
        self.contents += [weakref.ref(message.content) for message in self.sent]
        self.sent.clear()
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = super().pull_messages(message_ids)
        self.pulled.append(len(list(replies)))
        return replies


def messages(count: int) -> list[Message]:
    return [Message(RecordDict({"big": ConfigRecord({"x": 1})}), node, "train") for node in range(count)]


def test_contents_are_forgotten_once_they_are_pushed() -> None:
    grid = ForgetfulGrid(5)
    replies = exchange(grid, messages(5), timeout=5.0)
    first = next(replies)
    gc.collect()
    assert len(grid.contents) == 5
    assert not any(content() is not None for content in grid.contents)
    assert 1 + len(list(replies)) == 5
    assert first.content["update"]["node"] in range(5)


@pytest.mark.parametrize(("reply_bytes", "most"), [(0, 32), (1 << 20, 32), (1 << 24, 4), (1 << 26, 1), (1 << 33, 1)])
def test_few_replies_are_pulled_at_a_time_and_large_ones_singly(reply_bytes: int, most: int) -> None:
    grid = ForgetfulGrid(70)
    seen: list[Any] = [
        reply.content["update"]["node"] for reply in exchange(grid, messages(70), 5.0, reply_bytes=reply_bytes)
    ]
    assert sorted(seen) == list(range(70))
    assert max(grid.pulled) == most


def test_whoever_does_not_answer_is_waited_for_until_the_time_is_up() -> None:
    grid = ForgetfulGrid(3)
    grid.nodes[1] = lambda message: []
    assert len(list(exchange(grid, messages(3), timeout=0.3))) == 2


class InflatingGrid(ForgetfulGrid):
    """Makes replies when they are pulled, as Flower does, and notes what of the round is in memory just before."""

    def __init__(self, nodes: dict[int, Node]) -> None:
        super().__init__(0)
        self.nodes = nodes
        self.inflated: list[weakref.ref[ConfigRecord]] = []
        self.alive: list[tuple[int, int]] = []
        """Contents that were sent, and records of replies that were pulled."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        sent = sum(content() is not None for content in self.contents)
        self.alive.append((sent, sum(reply() is not None for reply in self.inflated)))
        replies = [copy.deepcopy(reply) for reply in super().pull_messages(message_ids)]
        self.inflated += [weakref.ref(reply.content["parts"]) for reply in replies if "parts" in reply.content]
        return replies


def test_a_round_holds_no_message_and_no_reply_that_it_is_done_with(monkeypatch: pytest.MonkeyPatch) -> None:
    deltamask = strategy()
    limit = sum(part.limit for part in deltamask.expected(1).values())
    monkeypatch.setattr("deltamask_server.exchange._MOST_BYTES", 2 * limit)
    monkeypatch.setattr("deltamask_server.exchange._LARGE", 0)
    grid = InflatingGrid({client: node(client) for client in range(5)})
    assert len(deltamask._enrolment.online(grid)) == 5
    grid.contents.clear(), grid.pulled.clear(), grid.alive.clear()  # of introductions, which are small
    reports = run_rounds(deltamask, grid, rounds=2)
    assert [len(report.tally.payload_bytes) for report in reports] == [5, 5]
    assert len(grid.contents) == len(grid.inflated) == 10
    assert grid.pulled == [2, 2, 1] * 2
    assert grid.alive == [(0, 0)] * 6
