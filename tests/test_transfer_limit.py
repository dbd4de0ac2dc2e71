"""Replies that are too large are refused by the head of their HTTP response."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import Error, Message
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError

from common.messages import TRAIN
from deltamask_server.transfer_limit import TOO_LARGE, limit_transfers
from tests.federation import node, run_rounds, strategy
from tests.grid import MemoryGrid

MB = 1 << 20


class Body(httpx.SyncByteStream):
    """Counts what is read of it."""

    def __init__(self, size: int) -> None:
        self.size, self.read = size, 0

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self.size >> 20):
            self.read += MB
            yield bytes(MB)


class Link:
    """A Grid's connection to a SuperLink that sends objects of any size."""

    def __init__(self) -> None:
        self.bodies: list[Body] = []
        self.grid: Any = SimpleNamespace(_client=SimpleNamespace(_client=self.client()))

    def client(self) -> httpx.Client:
        def send(request: httpx.Request) -> httpx.Response:
            body = Body(int(request.content or b"0"))
            self.bodies.append(body)
            return httpx.Response(200, headers={"content-length": str(body.size)}, stream=body)

        return httpx.Client(transport=httpx.MockTransport(send))

    def pull(self, size: int, path: str = "pull-object") -> int:
        client = self.grid._client._client
        return len(client.post(f"http://superlink/v1/runtime/{path}", content=str(size).encode()).content)


def test_an_object_that_is_too_large_is_refused_before_its_body_is_read() -> None:
    link = Link()
    limit_transfers(link.grid, 8 * MB)
    assert link.pull(8 * MB) == 8 * MB
    link.pull(0, "confirm-message-received")
    with pytest.raises(ObjectPullError, match=f"{TOO_LARGE}: 419,430,400 bytes or more, 9,437,184 allowed"):
        link.pull(400 * MB)
    assert link.bodies[-1].read == 0


def test_so_are_many_that_are_too_large_together() -> None:
    link = Link()
    limit_transfers(link.grid, 8 * MB)
    link.pull(5 * MB)
    with pytest.raises(ObjectPullError):
        link.pull(5 * MB)


def test_replies_after_it_are_not_affected() -> None:
    link = Link()
    limit_transfers(link.grid, 8 * MB)
    with pytest.raises(ObjectPullError):
        link.pull(400 * MB)
    link.pull(5 * MB)  # of the same reply, under way beside it
    for _ in range(3):
        assert link.pull(8 * MB) == 8 * MB
        link.pull(0, "confirm-message-received")


def test_each_exchange_has_its_own_limit_and_other_requests_have_none() -> None:
    link = Link()
    limit_transfers(link.grid, 100 * MB)
    link.pull(90 * MB)
    link.pull(0, "confirm-message-received")
    limit_transfers(link.grid, 0)
    assert len(link.grid._client._client.event_hooks["response"]) == 1
    with pytest.raises(ObjectPullError):
        link.pull(2 * MB)
    assert link.pull(50 * MB, "pull-messages") == 50 * MB


def test_grids_without_http_are_left_as_they_are() -> None:
    limit_transfers(MemoryGrid({}), 8 * MB)
    limit_transfers(SimpleNamespace(_client=None), 8 * MB)  # type: ignore[arg-type]


def test_what_was_refused_counts_as_oversized() -> None:
    def refused(content: Any, message: Message) -> list[Any]:
        return [Error(3, f"Reply message objects are unavailable. Failed to pull object with ID '': {TOO_LARGE}: ...")]

    grid = MemoryGrid({0: node(0), 1: node(1), 2: node(2, refused, TRAIN)})
    (report,) = run_rounds(strategy(), grid)
    assert report.tally.failures == {2: "oversized"}
