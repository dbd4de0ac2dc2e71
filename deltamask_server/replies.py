"""Which replies of a round count: whose they are, what is wrong with them, and what is passed on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from flwr.app import Message, Metadata, RecordDict

from common.errors import DuplicateReply, OversizedPayload, PayloadError, brief
from common.messages import Update
from deltamask_server.tally import Tally
from deltamask_server.transfer_limit import TOO_LARGE

__all__ = ["collect"]

_ERROR_REASONS = {
    1: "client-app-not-loaded",
    2: "client-error",
    3: "message-lost",
    4: "reply-lost",
    5: "node-unavailable",
    8: "client-crashed",
}
"""Flower's error codes."""


def collect(
    replies: Iterable[Message],
    addresses: Mapping[int, Metadata],
    tally: Tally,
    *,
    unpack: Callable[[RecordDict], Update],
    accept: Callable[[int, Update], None],
    note_holding: Callable[[int, bytes | None], None],
) -> None:
    """Check each reply, pass the good ones on, and count the rest by reason.

    Parameters
    ----------
    replies
        As they come; each is emptied once it has been counted.
    addresses
        Metadata of the messages that were sent, by client.
    tally
        Of this round; closed at the end.
    unpack, accept
        Check the form of a reply, and take what is in it, with the client's id; both may raise PayloadError, and the
        reply then counts for nothing.
    note_holding
        Told which version of the global model a client has kept (None: none).
    """
    asked: dict[str, int] | None = None
    for reply in replies:
        # Message ids exist only once the messages are pushed, which the first reply proves. An error from a dead node
        # names no client, so replies are attributed by the message they answer, never by their source.
        if asked is None:
            asked = {address.message_id: client for client, address in addresses.items()}
        client = asked.get(reply.metadata.reply_to_message_id)
        if client is not None and reply.has_error():
            reason = _ERROR_REASONS.get(reply.error.code, "client-error")
            if TOO_LARGE in (reply.error.reason or ""):
                reason = OversizedPayload.reason
            print(f"  client {client}: {reason}: {brief(reply.error.reason)}")
            tally.drop(client, reason)
            # Its theta may be lost, or not the one we think: the next message brings everything.
            note_holding(client, None)
        else:
            _take(reply, client, tally, unpack, accept, note_holding)
        if reply.has_content():
            # A payload may be as large as the model, and is not to lie here while the next one is pulled; Flower's
            # records refer to themselves, so that they outlive the last use of them.
            reply.content.clear()
        del reply
    tally.close()


def _take(
    reply: Message,
    client: int | None,
    tally: Tally,
    unpack: Callable[[RecordDict], Update],
    accept: Callable[[int, Update], None],
    note_holding: Callable[[int, bytes | None], None],
) -> None:
    """Check one reply and pass it on, or count why not."""
    try:
        if client is None:
            raise PayloadError("it answers no message of this round")
        if client in tally.payload_bytes:
            raise DuplicateReply(f"client {client} has answered already")
        update = unpack(reply.content)
        accept(client, update)
    except PayloadError as error:
        print(f"  client {client}: reply dropped, {error.reason}: {brief(error)}")
        tally.drop(client, error.reason)
        return
    except Exception as error:  # a decoder bug that one client's bytes reach must not end everybody's run
        print(f"  client {client}: reply dropped, the decoder failed: {type(error).__name__}: {brief(error)}")
        tally.drop(client, "decoder-failed")
        return
    tally.failures.pop(client, None)
    tally.payload_bytes[client] = update.size
    tally.record_bytes[client] = sum(record.count_bytes() for record in reply.content.values())
    tally.metrics[client] = dict(update.metrics)
    note_holding(client, update.holds)
