"""Messages to the clients of one round, and what becomes of the replies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, Message, Metadata, RecordDict

from common.errors import RoundError
from common.messages import Parts, Update, name_run, pack_classes, pack_model, unpack_update
from deltamask_server.enrolment import Enrolment
from deltamask_server.replies import collect
from deltamask_server.tally import Tally

__all__ = ["Correspondence"]


class Correspondence:
    """Who was asked, and a tally of the answers. The contents of messages are not kept.

    Parameters
    ----------
    enrolment
        Knows which version of the global model each client holds.
    class_names
        Sent with the first model that a client gets.
    quorum
        Usable replies that a round needs.
    most_examples
        Of a client in a mean of what they say, in medians; 0: no limit.
    """

    def __init__(
        self, enrolment: Enrolment, class_names: Sequence[str], quorum: int, most_examples: float = 0.0
    ) -> None:
        self._enrolment, self._class_names, self._quorum = enrolment, class_names, quorum
        self._most_examples = most_examples
        self._addresses: dict[int, Metadata] = {}
        self.tally = Tally(())
        """Of the newest messages."""

    def model_for(
        self, clients: Sequence[int], arrays: ArrayRecord, parts: Callable[[bytes | None], dict[str, bytes]]
    ) -> dict[int, RecordDict]:
        """What each client lacks of the global model.

        Parameters
        ----------
        clients
            Their ids.
        arrays
            For those who hold nothing; with the class list.
        parts
            Gives what a client lacks that holds a version, `deltamask_server.rounds.RoundStrategy.parts`.
        """
        # Clients that hold the same version share one record, which Flower then stores and counts once.
        records: dict[bytes | None, ArrayRecord] = {None: arrays}
        for held in {self._enrolment.holds.get(client) for client in clients} - {None}:
            records[held] = pack_model(parts(held))
        contents = {}
        for client in clients:
            held = self._enrolment.holds.get(client)
            contents[client] = pack_classes(self._class_names if held is None else ())
            contents[client]["parts"] = records[held]
        return contents

    def address(
        self, clients: Mapping[int, int], contents: Mapping[int, RecordDict], message_type: str, group: str
    ) -> list[Message]:
        """Make one message for each client (client id -> node id), and a fresh tally."""
        for content in contents.values():
            name_run(content, self._enrolment.first_run)
        messages = {
            client: Message(contents[client], dst_node_id=node, message_type=message_type, group_id=group)
            for client, node in sorted(clients.items())
        }
        self._addresses = {client: message.metadata for client, message in messages.items()}
        self.tally = Tally(tuple(messages), most_examples=self._most_examples)
        return list(messages.values())

    def collect(
        self, replies: Iterable[Message], parts: Parts, accept: Callable[[int, Update], None], **form: Any
    ) -> None:
        """Check each reply, pass the good ones on, and count the rest by reason.

        Parameters
        ----------
        replies
            As they come.
        parts, form
            What they may bring, as `common.messages.unpack_update` takes it.
        accept
            Takes a client's id and what it has sent; may raise PayloadError, and the reply then counts for nothing.
        """
        collect(
            replies,
            self._addresses,
            self.tally,
            unpack=lambda content: unpack_update(content, parts, **form),
            accept=accept,
            note_holding=self._enrolment.note_holding,
        )

    def require_quorum(self, what: str) -> None:
        """Raise RoundError if fewer replies than the quorum were usable in ``what``."""
        usable = len(self.tally.payload_bytes)
        if usable < self._quorum:
            failed = ", ".join(f"{count} {reason}" for reason, count in sorted(self.tally.dropped.items())) or "none"
            raise RoundError(
                f"{usable} of {len(self.tally.asked)} replies usable in {what}, quorum is {self._quorum}; "
                f"failed: {failed}"
            )
