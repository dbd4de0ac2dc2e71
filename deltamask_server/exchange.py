"""Send messages to clients and yield their replies as they come in."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from flwr.app import Message
from flwr.serverapp import Grid

__all__ = ["exchange"]

_FIRST_POLL, _SLOWEST_POLL = 0.1, 2.0


def exchange(grid: Grid, messages: Iterable[Message], timeout: float) -> Iterator[Message]:
    """Push messages, then yield each reply once, until all are there or the time is up.

    Flower's own ``send_and_receive`` returns all replies at the end and looks every three seconds; here decoding goes
    on while others still train, and short rounds are not rounded up. A late reply is simply never yielded.
    """
    pending = {message_id for message_id in grid.push_messages(list(messages)) if message_id}
    end, wait = time.monotonic() + timeout, _FIRST_POLL
    while pending:
        replies = list(grid.pull_messages(pending))
        for reply in replies:
            pending.discard(reply.metadata.reply_to_message_id)
            yield reply
        if time.monotonic() >= end:
            return
        wait = _FIRST_POLL if replies else min(_SLOWEST_POLL, wait * 1.5)
        if pending:
            time.sleep(min(wait, max(0.0, end - time.monotonic())))
