"""Send messages to clients and yield their replies as they come in."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator

from flwr.app import Message
from flwr.serverapp import Grid

from deltamask_server.transfer_limit import limit_transfers

__all__ = ["exchange"]

_FIRST_POLL, _SLOWEST_POLL = 0.1, 2.0
_MOST_BYTES, _MOST_REPLIES = 1 << 26, 32
"""Of replies that are pulled at once: Flower inflates all of them before it gives out the first."""
_LARGE = 1 << 20
"""Bytes of a record that memory is cleared of at once; smaller ones wait for Python's own collector."""


def exchange(
    grid: Grid,
    messages: Iterable[Message],
    timeout: float,
    reply_bytes: int = 0,
    enough: Callable[[float], bool] = lambda seconds: False,
) -> Iterator[Message]:
    """Push messages, then yield each reply once, until all are there, or enough, or the time is up.

    Flower's own ``send_and_receive`` returns all replies at the end and looks every three seconds; here decoding goes
    on while others still train, and short rounds are not rounded up. A late reply is simply never yielded. Messages are
    forgotten once they are pushed, and few replies are held at a time: large ones singly.

    Parameters
    ----------
    grid, messages
        Where, and what.
    timeout
        Seconds from now on.
    reply_bytes
        Of the largest payload that a reply may bring; more is refused before it is transferred, where the Grid can
        (`deltamask_server.transfer_limit`).
    enough
        Whether to stop, by the seconds that have passed; asked after each look.
    """
    pushed = list(messages)
    large = max((record.count_bytes() for message in pushed for record in message.content.values()), default=0) > _LARGE
    pending = [message_id for message_id in grid.push_messages(pushed) if message_id]
    del messages, pushed
    limit_transfers(grid, reply_bytes)
    if large:
        gc.collect()  # a RecordDict refers to itself, and what it holds would stay for rounds; clients train meanwhile
    begun, wait = time.monotonic(), _FIRST_POLL
    most = max(1, min(_MOST_REPLIES, _MOST_BYTES // max(1, reply_bytes)))
    while pending:
        answered: set[str] = set()
        for first in range(0, len(pending), most):
            replies = list(grid.pull_messages(pending[first : first + most]))
            while replies:
                reply = replies.pop(0)
                answered.add(reply.metadata.reply_to_message_id)
                yield reply
                del reply  # or this frame holds it while the next ones are pulled
        pending = [message_id for message_id in pending if message_id not in answered]
        seconds = time.monotonic() - begun
        if seconds >= timeout or enough(seconds):
            return
        wait = _FIRST_POLL if answered else min(_SLOWEST_POLL, wait * 1.5)
        if pending:
            time.sleep(min(wait, max(0.0, timeout - seconds)))
