"""DeltaMask as a Flower Strategy: sample clients, send theta, decode their deltas one by one, fold the masks into a
Beta posterior.

Tsouvalas, Asano, Saeed: Federated Fine-Tuning of Foundation Models via Probabilistic Masking, arXiv 2311.17299,
algorithm 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from numpy.typing import NDArray

from common.codecs import SharedState, codec_of
from common.errors import DuplicateReply, PayloadError, RoundError, brief
from common.messages import HEAD, TRAIN, Update, pack_global, unpack_update
from common.models import Head, get_head
from common.models.heads.linear_probe import average_heads
from common.posterior import BetaPosterior, empty_posterior, fold, is_reset_round, mode
from common.theta import quantise
from common.uniforms import SERVER_CLIENT, stream_seed
from common.wire import max_payload_bytes
from deltamask_server.downlink import Downlink
from deltamask_server.enrolment import Enrolment
from deltamask_server.exchange import exchange
from deltamask_server.tally import Tally

__all__ = ["DeltaMask", "RoundReport"]

_NO_QUORUM = "{usable} of {asked} replies usable in {what}, quorum is {quorum}; failed: {failed}"


@dataclass(frozen=True)
class RoundReport:
    """What one round did; the numbers behind a line of ``rounds.jsonl``."""

    server_round: int
    tally: Tally
    downlink_bytes: dict[int, int]
    """Bytes of theta and head sent to each client."""
    theta: NDArray[np.uint16]
    evaluation: MetricRecord | None
    seconds: dict[str, float]
    """Wall time by phase: configure, train (waiting, with decoding and folding in between), aggregate (that decoding
    and folding alone), evaluate.
    """


class DeltaMask(Strategy):
    """Bayesian aggregation of probabilistic masks.

    Parameters
    ----------
    enrolment
        Knows which clients are connected.
    segments
        Sizes of the masked tensors; d is their sum.
    classes, features
        Shape of the head.
    downlink
        How theta travels: ``float32``, ``quantised``, ``exact`` or ``relay``.
    seed
        Run seed.
    participation
        Share of the connected clients asked in a round, rounded up, at least ``quorum``.
    quorum
        Usable replies that a round needs.
    initial_theta, theta_clip, prior
        See `common.config.RunConfig`.
    head_kind
        How the head is fitted: ``linear-probe``, ``ridge`` or ``mean``.
    frozen_head_rounds
        Rounds that leave the head as it is; in later ones clients train it too.
    """

    def __init__(
        self,
        enrolment: Enrolment,
        *,
        segments: Sequence[int],
        classes: int,
        features: int,
        downlink: str = "exact",
        seed: int = 1,
        participation: float = 1.0,
        quorum: int = 2,
        initial_theta: float = 0.95,
        theta_clip: float = 0.01,
        prior: float = 1.0,
        head_kind: str = "linear-probe",
        frozen_head_rounds: float = math.inf,
    ) -> None:
        self._enrolment = enrolment
        self._segments = tuple(segments)
        self._classes, self._features = classes, features
        self._seed, self._participation, self._quorum = seed, participation, quorum
        self._theta_clip, self._prior = theta_clip, prior
        self.theta: NDArray[np.uint16] = np.full(self.d, quantise(initial_theta), dtype=np.uint16)
        self.head = Head(np.zeros((classes, features), np.float32), np.zeros(classes, np.float32))
        self._head_kind, self._frozen_head_rounds = get_head(head_kind), frozen_head_rounds
        self._downlink = Downlink(downlink, self._segments, seed, self.theta, theta_clip)
        self._posterior = empty_posterior(self.d, prior)
        self.tally = Tally(())
        self._messages: dict[int, Message] = {}  # client -> message of this round
        self._slots: dict[int, int] = {}  # client -> its number in this round
        self._sent: dict[int, int] = {}
        self._aggregate_seconds = 0.0

    @property
    def d(self) -> int:
        """Masked weights."""
        return sum(self._segments)

    def arrays(self) -> ArrayRecord:
        """The global model as it is sent to a client that holds nothing."""
        return pack_global(self._downlink.message(None), self.head)

    # -- the head round ------------------------------------------------------------------------------------------------

    def fit_head(self, grid: Grid, timeout: float) -> Tally:
        """Have every connected client measure its features once, and make the head of what all sent.

        Raises
        ------
        RoundError
            If fewer replies than the quorum are usable.
        """
        clients = self._enrolment.online(grid)
        self._address(clients, dict.fromkeys(clients, RecordDict()), HEAD, "head")
        kind, shape = self._head_kind, (self._classes, self._features)
        statistics: dict[int, tuple[bytes, int]] = {}

        def keep(client: int, update: Update) -> None:
            kind.check(update.payload, *shape, update.examples)
            statistics[client] = update.payload, update.examples

        self._collect(exchange(grid, self._messages.values(), timeout), max_bytes=kind.max_bytes(*shape), accept=keep)
        self._require_quorum("the head round")
        # In the order of client ids: a sum of floats depends on its order, and arrival is chance.
        self.head = kind.combine([statistics[client] for client in sorted(statistics)], *shape)
        return self.tally

    # -- Flower's Strategy interface -----------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message to each client of this round's sample, which depends on (seed, round) and the connected client
        ids only. A client is sent what it lacks of the model; ``arrays`` is the whole, for those who hold nothing.
        """
        online = self._enrolment.online(grid)
        count = max(self._quorum, math.ceil(self._participation * len(online) - 1e-9))
        rng = np.random.default_rng(stream_seed(self._seed, server_round, SERVER_CLIENT, "sample"))
        # In the order drawn, which gives each client its slot of the round.
        sample = [int(client) for client in rng.permutation(sorted(online))[:count]]
        self._slots = {client: slot for slot, client in enumerate(sample)}
        # Clients that hold the same version share one record, which Flower then stores and counts once.
        records: dict[bytes | None, ArrayRecord] = {None: arrays}
        for held in {self._enrolment.holds.get(client) for client in sample} - {None}:
            # A head that the round before has trained is new to everybody, also to those who missed rounds.
            head = self.head if server_round > self._frozen_head_rounds + 1 else None
            records[held] = pack_global(self._downlink.message(held), head)
        contents = {
            client: RecordDict(
                {
                    "arrays": records[self._enrolment.holds.get(client)],
                    "round": ConfigRecord({**config, "round": server_round, "slot": slot}),
                }
            )
            for client, slot in self._slots.items()
        }
        self._address({client: online[client] for client in sample}, contents, TRAIN, str(server_round))
        self._sent = {
            client: sum(len(array.data) for array in content.array_records["arrays"].values())
            for client, content in contents.items()
        }
        return list(self._messages.values())

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Decode and fold replies as they come; one mask is in memory at a time.

        Bad replies are dropped and counted in ``tally``, and the round goes on.

        Raises
        ------
        RoundError
            If fewer replies than the quorum are usable; theta then stays as it was.
        """
        start = (
            empty_posterior(self.d, self._prior)
            if is_reset_round(server_round, self._participation)
            else self._posterior
        )
        posterior, payloads, heads = [start], dict[int, bytes](), dict[int, tuple[Head, int]]()
        self._aggregate_seconds = 0.0

        def decode_and_fold(client: int, update: Update) -> None:
            begun = time.perf_counter()
            # Before anything is folded: of a reply everything counts, or nothing.
            head = None if update.head is None else Head.from_bytes(update.head, self._classes, self._features)
            posterior[0] = self._fold_payload(posterior[0], update.payload, server_round, client)
            payloads[self._slots[client]] = update.payload
            if head is not None:
                heads[client] = head, update.examples
            self._aggregate_seconds += time.perf_counter() - begun

        trains_head = server_round > self._frozen_head_rounds
        self._collect(replies, max_payload_bytes(self.d), decode_and_fold, with_head=trains_head)
        self._require_quorum(f"round {server_round}")
        self._posterior = posterior[0]
        self.theta = mode(self._posterior, self._theta_clip)
        if trains_head:
            self.head = average_heads([heads[client] for client in sorted(heads)])
        self._downlink.publish(self.theta, server_round, payloads, start)
        metrics: dict[str, int | float | list[int] | list[float]] = {
            "clients": len(self.tally.payload_bytes),
            "loss": self.tally.mean("loss"),
            "accuracy": self.tally.mean("accuracy"),
        }
        return self.arrays(), MetricRecord(metrics)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """No evaluation on clients: the server holds the test images."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing to aggregate."""
        return None

    def summary(self) -> None:
        """Print what this strategy is."""
        print(f"DeltaMask: {self.d:,} masked weights in {len(self._segments)} tensors, quorum {self._quorum}")

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
        on_round: Callable[[RoundReport], None] = lambda report: None,
    ) -> Result:
        """Flower's loop, with two differences: replies are decoded while others still train, and ``on_round`` hears of
        each round when it ends.
        """
        result = Result()
        result.arrays = arrays = initial_arrays
        for server_round in range(1, num_rounds + 1):
            begun = time.perf_counter()
            messages = self.configure_train(server_round, arrays, train_config or ConfigRecord(), grid)
            configured = time.perf_counter()
            new_arrays, metrics = self.aggregate_train(server_round, exchange(grid, messages, timeout))
            trained = time.perf_counter()
            result.arrays = arrays = new_arrays or arrays
            result.train_metrics_clientapp[server_round] = metrics or MetricRecord()
            evaluation = evaluate_fn(server_round, arrays) if evaluate_fn else None
            if evaluation is not None:
                result.evaluate_metrics_serverapp[server_round] = evaluation
            seconds = {
                "configure": configured - begun,
                "train": trained - configured,
                "aggregate": self._aggregate_seconds,
                "evaluate": time.perf_counter() - trained,
            }
            on_round(RoundReport(server_round, self.tally, self._sent, self.theta, evaluation, seconds))
        return result

    # -- replies -------------------------------------------------------------------------------------------------------

    def _fold_payload(self, posterior: BetaPosterior, payload: bytes, server_round: int, client: int) -> BetaPosterior:
        shared = SharedState(self.theta, self._seed, server_round, self._slots[client], self._segments)
        return fold(posterior, codec_of(payload).decode(payload, shared))

    def _address(
        self, clients: dict[int, int], contents: Mapping[int, RecordDict], message_type: str, group: str
    ) -> None:
        """Make one message for each client, and a fresh tally."""
        self._messages = {
            client: Message(contents[client], dst_node_id=node, message_type=message_type, group_id=group)
            for client, node in sorted(clients.items())
        }
        self.tally = Tally(tuple(self._messages))

    def _collect(
        self,
        replies: Iterable[Message],
        max_bytes: int,
        accept: Callable[[int, Update], None],
        with_head: bool = False,
    ) -> None:
        """Check each reply, pass the good ones on, and count the rest by reason."""
        tally = self.tally
        asked: dict[str, int] | None = None
        for reply in replies:
            # Message ids exist only once the messages are pushed, which the first reply proves. An error from a dead
            # node names no client, so replies are attributed by the message they answer, never by their source.
            if asked is None:
                asked = {message.metadata.message_id: client for client, message in self._messages.items()}
            client = asked.get(reply.metadata.reply_to_message_id)
            try:
                if client is None:
                    raise PayloadError("it answers no message of this round")
                if reply.has_error():
                    reason = _ERROR_REASONS.get(reply.error.code, "client-error")
                    print(f"  client {client}: {reason}: {brief(reply.error.reason)}")
                    tally.drop(client, reason)
                    # Its theta may be lost, or not the one we think: the next message brings everything.
                    self._enrolment.note_holding(client, None)
                    continue
                if client in tally.payload_bytes:
                    raise DuplicateReply(f"client {client} has answered already")
                update = unpack_update(reply.content, max_bytes, with_head)
                accept(client, update)
            except PayloadError as error:
                print(f"  client {client}: reply dropped, {error.reason}: {brief(error)}")
                tally.drop(client, error.reason)
                continue
            except Exception as error:  # a decoder bug that one client's bytes reach must not end everybody's run
                print(f"  client {client}: reply dropped, the decoder failed: {type(error).__name__}: {brief(error)}")
                tally.drop(client, "decoder-failed")
                continue
            tally.failures.pop(client, None)
            tally.payload_bytes[client] = update.size
            tally.record_bytes[client] = _count_bytes(reply.content)
            tally.metrics[client] = dict(update.metrics)
            self._enrolment.note_holding(client, update.holds)
        tally.close()

    def _require_quorum(self, what: str) -> None:
        usable = len(self.tally.payload_bytes)
        if usable < self._quorum:
            failed = ", ".join(f"{count} {reason}" for reason, count in sorted(self.tally.dropped.items())) or "none"
            raise RoundError(
                _NO_QUORUM.format(
                    usable=usable, asked=len(self.tally.asked), what=what, quorum=self._quorum, failed=failed
                )
            )


_ERROR_REASONS = {
    1: "client-app-not-loaded",
    2: "client-error",
    3: "message-lost",
    4: "reply-lost",
    5: "node-unavailable",
    8: "client-crashed",
}
"""Flower's error codes."""


def _count_bytes(content: RecordDict) -> int:
    """Bytes of a reply's records, as Flower counts them."""
    return sum(record.count_bytes() for record in content.values())
