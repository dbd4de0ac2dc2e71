"""A round, whatever the method: who is asked, what they lack, which replies count, and when a round has failed.

A method is a subclass that says how its global model travels and what a reply does to it: `DeltaMask`, `HideNseek`,
`FedAvg`, `LotteryFL`.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from common.errors import RoundError
from common.messages import (
    EVALUATE,
    HEAD,
    TRAIN,
    Update,
    pack_classes,
    pack_global,
    unpack_classes,
    unpack_evaluation,
    unpack_update,
)
from common.models import Head, get_head
from common.models.heads.random_head import RANDOM_HEAD, random_head
from common.uniforms import SERVER_CLIENT, stream_seed
from deltamask_server.enrolment import Enrolment
from deltamask_server.evaluation import Evaluator
from deltamask_server.exchange import exchange
from deltamask_server.replies import collect
from deltamask_server.tally import Tally
from deltamask_server.validation import fairness

__all__ = ["RoundReport", "RoundStrategy"]

_KEPT_BYTES = 1 << 24
"""Larger payloads are not kept: they are float32, and keeping one would double what the server holds of a round."""
_NO_QUORUM = "{usable} of {asked} replies usable in {what}, quorum is {quorum}; failed: {failed}"


@dataclass(frozen=True)
class RoundReport:
    """What one round did; the numbers behind a line of ``rounds.jsonl``."""

    server_round: int
    tally: Tally
    downlink_bytes: dict[int, int]
    """Bytes of the global model and class list sent to each client, for training and validation together."""
    digest: bytes
    """Of the global model after the round."""
    evaluation: MetricRecord | None
    seconds: dict[str, float]
    """Wall time by phase: configure, train (waiting, with decoding and folding in between), aggregate (that decoding
    and folding alone), evaluate, validate (the clients' evaluation).
    """
    validation: Tally | None = None
    """Accuracies that clients found on images they have held out; None where they were not asked."""
    payload: tuple[int, bytes] | None = None
    """A client, and its payload as it came: an example to look at. None where all were too large to keep."""


class RoundStrategy(Strategy):
    """The head round, the rounds of training, and the bookkeeping of both.

    Parameters
    ----------
    enrolment
        Knows which clients are connected.
    classes, features
        Shape of the head.
    class_names
        Names of the classes, for clients with images of their own; may be empty.
    validate
        Have clients evaluate the model on the images they have held out, in every round that is evaluated.
    personal_test
        Clients may report how good the model they have just trained is on test images.
    seed
        Run seed.
    participation
        Share of the connected clients asked in a round, rounded up, at least ``quorum``.
    quorum
        Usable replies that a round needs.
    head_kind
        How the head is fitted: ``linear-probe``, ``ridge``, ``mean``, or ``random``: not at all.
    """

    def __init__(
        self,
        enrolment: Enrolment,
        *,
        classes: int,
        features: int,
        class_names: Sequence[str] = (),
        validate: bool = False,
        personal_test: bool = False,
        seed: int = 1,
        participation: float = 1.0,
        quorum: int = 2,
        head_kind: str = "linear-probe",
    ) -> None:
        self._enrolment = enrolment
        self._classes, self._features = classes, features
        self._class_names, self._validate, self._personal_test = tuple(class_names), validate, personal_test
        self._seed, self._participation, self._quorum = seed, participation, quorum
        self.head = Head(np.zeros((classes, features), np.float32), np.zeros(classes, np.float32))
        self._head_name = head_kind
        if head_kind == RANDOM_HEAD:
            self.head = random_head(classes, features, seed)
        self._head_trained = False
        """Whether a round has trained the head: it is then new to everybody, also to those who missed rounds."""
        self.tally = Tally(())
        self._messages: dict[int, Message] = {}  # client -> message of this round
        self._slots: dict[int, int] = {}  # client -> its number in this round
        self._sent: dict[int, int] = {}
        self._aggregate_seconds = 0.0
        self._example: tuple[int, bytes] | None = None  # client and payload of this round

    # -- what a method says --------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def digest(self) -> bytes:
        """8 bytes that name the global model."""

    @abstractmethod
    def message(self, held: bytes | None) -> bytes:
        """The global model for a client that holds the version with this digest (None: nothing)."""

    @property
    @abstractmethod
    def max_payload_bytes(self) -> int:
        """No honest reply is larger."""

    @abstractmethod
    def begin_round(self, server_round: int) -> None:
        """Make ready for the replies of a round."""

    @abstractmethod
    def accept(self, update: Update, server_round: int, slot: int) -> None:
        """Decode one reply and fold it in; raises PayloadError, and has then changed nothing."""

    @abstractmethod
    def end_round(self, server_round: int) -> None:
        """Replace the global model; called only where enough replies were accepted."""

    @abstractmethod
    def evaluate(self, evaluator: Evaluator, server_round: int) -> dict[str, float]:
        """Accuracy of the global model, by form; ``mean`` is the one to use."""

    @abstractmethod
    def tensors(self) -> dict[str, torch.Tensor]:
        """The global model without its head, to be kept in a file."""

    def head_for(self, held: bytes | None) -> Head | None:
        """The head for a client that holds the version with this digest (None: nothing); None if it has it already."""
        return self.head if held is None or self._head_trained else None

    def trains_head(self, server_round: int) -> bool:
        """Whether replies of a round carry a head beside their payload."""
        return False

    def arrays(self) -> ArrayRecord:
        """The global model as it is sent to a client that holds nothing."""
        return pack_global(self.message(None), self.head_for(None))

    # -- the head round ------------------------------------------------------------------------------------------------

    def fit_head(self, grid: Grid, timeout: float) -> Tally:
        """Have every connected client measure its features once, and make the head of what all sent. A random head
        asks nobody.

        Raises
        ------
        RoundError
            If fewer replies than the quorum are usable.
        """
        if self._head_name == RANDOM_HEAD:
            return Tally(())
        clients = self._enrolment.online(grid)
        self._address(clients, dict.fromkeys(clients, pack_classes(self._class_names)), HEAD, "head")
        kind, shape = get_head(self._head_name), (self._classes, self._features)
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
        contents = self._global_model(sample, arrays)
        for client, slot in self._slots.items():
            contents[client]["round"] = ConfigRecord({**config, "round": server_round, "slot": slot})
        self._sent = {client: _model_bytes(content) for client, content in contents.items()}
        self._address({client: online[client] for client in sample}, contents, TRAIN, str(server_round))
        return list(self._messages.values())

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Decode and fold replies as they come; one is in memory at a time.

        Bad replies are dropped and counted in ``tally``, and the round goes on.

        Raises
        ------
        RoundError
            If fewer replies than the quorum are usable; the global model then stays as it was.
        """
        self.begin_round(server_round)
        self._aggregate_seconds = 0.0
        self._example = None

        def timed(client: int, update: Update) -> None:
            begun = time.perf_counter()
            self.accept(update, server_round, self._slots[client])
            self._aggregate_seconds += time.perf_counter() - begun
            self._keep_example(client, update.payload)

        unpack = partial(unpack_update, with_head=self.trains_head(server_round), with_personal=self._personal_test)
        self._collect(replies, self.max_payload_bytes, timed, unpack)
        self._require_quorum(f"round {server_round}")
        self.end_round(server_round)
        metrics: dict[str, int | float | list[int] | list[float]] = {
            "clients": len(self.tally.payload_bytes),
            "loss": self.tally.mean("loss"),
            "accuracy": self.tally.mean("accuracy"),
        }
        return self.arrays(), MetricRecord(metrics)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every connected client how good the model is on the images it has held out."""
        if not self._validate:
            return []
        clients = self._enrolment.connected(set(grid.get_node_ids()))
        contents = self._global_model(list(clients), arrays)
        for client, content in contents.items():
            self._sent[client] = self._sent.get(client, 0) + _model_bytes(content)
        self._address(clients, contents, EVALUATE, f"{server_round}-validation")
        return list(self._messages.values())

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Collect the clients' accuracies; bad replies are dropped and counted in ``tally``, and none is required."""
        self._collect(
            replies,
            max_bytes=0,
            accept=lambda client, update: None,
            unpack=lambda content, _: unpack_evaluation(content),
        )
        figures = fairness(self.tally)
        return None if figures is None else MetricRecord({**figures})

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
            evaluated, tally, validation = time.perf_counter(), self.tally, None
            if self._validate and (evaluation is not None or evaluate_fn is None):
                questions = self.configure_evaluate(server_round, arrays, evaluate_config or ConfigRecord(), grid)
                figures = self.aggregate_evaluate(server_round, exchange(grid, questions, timeout))
                validation = self.tally
                if figures is not None:
                    result.evaluate_metrics_clientapp[server_round] = figures
            seconds = {
                "configure": configured - begun,
                "train": trained - configured,
                "aggregate": self._aggregate_seconds,
                "evaluate": evaluated - trained,
                "validate": time.perf_counter() - evaluated,
            }
            on_round(
                RoundReport(
                    server_round, tally, self._sent, self.digest, evaluation, seconds, validation, self._example
                )
            )
        return result

    # -- messages and replies -----------------------------------------------------------------------------------------

    def _global_model(self, clients: Sequence[int], arrays: ArrayRecord) -> dict[int, RecordDict]:
        """What each client lacks of the model; ``arrays`` and the class list for those who hold nothing."""
        # Clients that hold the same version share one record, which Flower then stores and counts once.
        records: dict[bytes | None, ArrayRecord] = {None: arrays}
        for held in {self._enrolment.holds.get(client) for client in clients} - {None}:
            records[held] = pack_global(self.message(held), self.head_for(held))
        contents = {}
        for client in clients:
            held = self._enrolment.holds.get(client)
            contents[client] = pack_classes(self._class_names if held is None else ())
            contents[client]["arrays"] = records[held]
        return contents

    def _address(
        self, clients: dict[int, int], contents: Mapping[int, RecordDict], message_type: str, group: str
    ) -> None:
        """Make one message for each client, and a fresh tally."""
        self._messages = {
            client: Message(contents[client], dst_node_id=node, message_type=message_type, group_id=group)
            for client, node in sorted(clients.items())
        }
        self.tally = Tally(tuple(self._messages))

    def _keep_example(self, client: int, payload: bytes) -> None:
        """Of the accepted payloads, keep the one of the lowest slot, whoever answers first."""
        first = self._example is None or self._slots[client] < self._slots[self._example[0]]
        if first and len(payload) <= _KEPT_BYTES:
            self._example = client, payload

    def _collect(
        self,
        replies: Iterable[Message],
        max_bytes: int,
        accept: Callable[[int, Update], None],
        unpack: Callable[[RecordDict, int], Update] = unpack_update,
    ) -> None:
        """Check each reply, pass the good ones on, and count the rest by reason."""
        collect(
            replies,
            self._messages,
            self.tally,
            unpack=lambda content: unpack(content, max_bytes),
            accept=accept,
            note_holding=self._enrolment.note_holding,
        )

    def _require_quorum(self, what: str) -> None:
        usable = len(self.tally.payload_bytes)
        if usable < self._quorum:
            failed = ", ".join(f"{count} {reason}" for reason, count in sorted(self.tally.dropped.items())) or "none"
            raise RoundError(
                _NO_QUORUM.format(
                    usable=usable, asked=len(self.tally.asked), what=what, quorum=self._quorum, failed=failed
                )
            )


def _model_bytes(content: RecordDict) -> int:
    """Bytes of the model in a message: theta, head and class list."""
    names = sum(len(name.encode()) for name in unpack_classes(content))
    return names + sum(len(array.data) for array in content.array_records["arrays"].values())
