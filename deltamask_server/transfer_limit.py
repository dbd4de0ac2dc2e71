"""Replies that are larger than any of the run's can be are not transferred.

Flower hands out a reply when all of it is in memory, and takes up to 2 GB. But a reply comes as objects, each as an
HTTP response with its size in the head: what is too large is refused there, before its body is read. Flower then
reports the reply as one that could not be had. This holds for a ServerApp that asks its SuperLink over HTTP, as
Flower's do from 1.39 on; the SuperLink itself takes what nodes send.
"""

from __future__ import annotations

import threading
from typing import Any

from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError

__all__ = ["TOO_LARGE", "TransferLimit", "limit_transfers"]

TOO_LARGE = "it is larger than any reply of this round may be"
_AROUND = 1 << 20
"""Bytes of a reply beside its payload, generously: metrics, names, records of their own."""
_OBJECT, _RECEIVED = "/pull-object", "/confirm-message-received"


class TransferLimit:
    """A hook on the HTTP client of a Grid: reads the head of each response, and refuses those of replies that grow too
    large. Flower pulls one message after another, two objects at a time, and confirms each that it has.
    """

    def __init__(self) -> None:
        self.most = _AROUND
        """Bytes that a reply may have."""
        self._taken = 0
        self._uncounted = 0  # objects of a reply that was refused, which may be under way beside the one that was
        self._lock = threading.Lock()

    def __call__(self, response: Any) -> None:
        """Of an `httpx.Response` whose body has not been read."""
        path = response.request.url.path
        if not path.endswith((_OBJECT, _RECEIVED)):
            return
        size = int(response.headers.get("content-length", 0))
        with self._lock:
            if path.endswith(_RECEIVED):
                self._taken, self._uncounted = 0, 0
            elif self._uncounted and size <= self.most:
                self._uncounted -= 1
            elif self._taken + size > self.most:
                taken, self._taken, self._uncounted = self._taken + size, 0, 1
                response.close()
                raise ObjectPullError("", f"{TOO_LARGE}: {taken:,} bytes or more, {self.most:,} allowed")
            else:
                self._taken += size


def limit_transfers(grid: Grid, reply_bytes: int) -> None:
    """Let payloads of replies have no more bytes than that, from now on. Grids of other kinds are left as they are."""
    client = getattr(getattr(grid, "_client", None), "_client", None)
    hooks = getattr(client, "event_hooks", None)
    if client is None or hooks is None:
        return
    found = next((hook for hook in hooks["response"] if isinstance(hook, TransferLimit)), None)
    if found is None:
        found = TransferLimit()
        client.event_hooks = {**hooks, "response": [*hooks["response"], found]}
    found.most = reply_bytes + _AROUND
