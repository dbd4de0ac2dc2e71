"""A round, whatever the method: who is asked, what they lack, which replies count, and when a round has failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import ClassVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from common.errors import RoundError
from common.messages import BALANCED, EVALUATE, HELD_OUT, PERSONAL, TRAIN, Update, model_bytes, pack_model
from common.methods import METHODS
from common.models.heads import FittedHead, Head, HeadKind
from common.saved import Saved
from common.verdict import Verdict
from deltamask_server.again import Again
from deltamask_server.closing import Closing
from deltamask_server.correspondence import Correspondence
from deltamask_server.enrolment import Enrolment, draw_sample
from deltamask_server.exchange import exchange
from deltamask_server.head_round import fit_head
from deltamask_server.held_out import HeldOut
from deltamask_server.kept import Keeper
from deltamask_server.limits import ClientLimits
from deltamask_server.method_strategy import MethodStrategy
from deltamask_server.round_report import RoundReport
from deltamask_server.tally import LATE, Tally
from deltamask_server.validation import fairness

__all__ = ["RoundStrategy"]

_KEPT_BYTES = 1 << 24
"""Larger payloads are not kept: they are float32, and keeping one would double what the server holds of a round."""


class RoundStrategy(MethodStrategy):
    """The head round, the rounds of training, and the bookkeeping of both.

    Parameters
    ----------
    enrolment
        Knows which clients are connected.
    classes, features
        Shape of the head.
    head_kind
        How the head comes about.
    class_names
        Names of the classes, for clients with images of their own; may be empty.
    validate
        Have clients say how good the models that are evaluated are on images they hold out (`HeldOut`).
    patience
        Rounds without a better model, by the images held out, after which the run ends; 0: it goes on.
    personal_test
        Clients may report how good the model they have just trained is on test images.
    seed
        Run seed.
    closing
        How many clients a round asks, and when it has enough replies.
    limits
        What one client may do.
    again
        What becomes of a round that has fewer.
    """

    tells_fit: ClassVar[bool] = True
    """Whether clients say how well training went."""

    def __init__(
        self,
        enrolment: Enrolment,
        *,
        classes: int,
        features: int,
        head_kind: HeadKind,
        class_names: Sequence[str] = (),
        validate: bool = False,
        patience: int = 0,
        personal_test: bool = False,
        seed: int = 1,
        closing: Closing | None = None,
        limits: ClientLimits | None = None,
        again: Again | None = None,
    ) -> None:
        self._enrolment = enrolment
        self._classes, self._features = classes, features
        self._class_names, self._personal_test, self._head_kind = tuple(class_names), personal_test, head_kind
        self._seed, self._closing, self._limits = seed, closing or Closing(), limits or ClientLimits()
        self._again = again or Again()
        self.head = head_kind.start(classes, features, seed)
        self._head_trained = False
        """Whether a round has trained the head: it is then new to everybody, also to those who missed rounds."""
        self.keeper = Keeper(patience)
        """The best model so far, by the images that clients hold out."""
        self._held_out = HeldOut(validate, self._closing.participation == 1, self.keeper)
        self.server_round = 0
        """The last round that has ended."""
        self._mail = Correspondence(enrolment, self._class_names, self._closing.quorum, self._limits.most_examples)
        self._slots: dict[int, int] = {}  # client -> its number in this round
        self._wanted = 0  # usable replies that close this round
        self._sent: dict[int, int] = {}
        self._usual_examples = 0.0  # of the median client, by the newest replies
        self.limited: dict[int, Verdict] = {}
        """Clients of the newest round that do not count in full, by slot."""
        self._aggregate_seconds = 0.0
        self._example: tuple[int, bytes] | None = None  # client and payload of this round

    @property
    def tally(self) -> Tally:
        """What became of the replies to the newest messages."""
        return self._mail.tally

    @property
    def _head_bytes(self) -> int:
        return Head.size(self._classes, self._features)

    def head_part(self, held: bytes | None) -> dict[str, bytes]:
        """The head for a client that holds the version with this digest (None: nothing), unless it has it already."""
        return {"head": self.head.to_bytes()} if held is None or self._head_trained else {}

    def summary(self) -> None:
        """Print what this strategy is."""
        print(f"{METHODS[self.name].title}: quorum {self._closing.quorum}")

    # -- state ---------------------------------------------------------------------------------------------------------

    def state(self) -> Saved:
        """Everything that the rounds to come depend on, beside config, backbone and clients."""
        holds = {str(client): digest.hex() for client, digest in sorted(self._enrolment.holds.items())}
        owners = {str(client): node for client, node in sorted(self._enrolment.owners.items())}
        values = {"method": self.name, "round": self.server_round, "unchecked": self._held_out.unchecked,
                  "head-trained": self._head_trained, "holds": holds, "owners": owners,
                  "usual-examples": self._usual_examples}  # fmt: skip
        head = Saved({"weight": self.head.weight, "bias": self.head.bias})
        kept = self.keeper.state().under("kept")
        return Saved(values=values) | head.under("head") | kept | self.method_state().under(self.name)

    def load_state(self, saved: Saved) -> None:
        """Go on after the round that `state` was asked in.

        Raises
        ------
        RoundError
            If it is another method's, or the head has another shape.
        """
        head, method, shape = saved.part("head").arrays, saved.values.get("method"), (self._classes, self._features)
        if method != self.name or head["weight"].shape != shape:
            raise RoundError(
                f"a state of method {method} with a head {head['weight'].shape}; this run is of method {self.name} "
                f"with a head {shape}"
            )
        self.head = Head(head["weight"], head["bias"])
        self._head_trained, self.server_round = bool(saved.values["head-trained"]), int(saved.values["round"])
        self._enrolment.holds = {int(client): bytes.fromhex(name) for client, name in saved.values["holds"].items()}
        self._enrolment.owners = {int(client): int(node) for client, node in saved.values["owners"].items()}
        self._usual_examples = float(saved.values["usual-examples"])
        self._held_out.unchecked = saved.values["unchecked"]
        self.load_method_state(saved.part(self.name))
        self.keeper.load_state(saved.part("kept"))

    def arrays(self) -> ArrayRecord:
        """The global model as it is sent to a client that holds nothing."""
        return pack_model(self.parts(None))

    # -- the head round ------------------------------------------------------------------------------------------------

    def fit_head(self, grid: Grid, timeout: float) -> Tally:
        """Have every connected client measure its features once, and make the head of what all sent. A head that is not
        fitted asks nobody.

        Raises
        ------
        RoundError
            If fewer replies than the quorum are usable.
        """
        kind, shape = self._head_kind, (self._classes, self._features)
        if not isinstance(kind, FittedHead):
            return Tally(())

        def fit() -> Head:
            online = self._enrolment.online(grid)
            names, told = self._class_names, self.tells_fit
            return fit_head(kind, shape, online, self._mail, names, self._limits, grid, timeout, told)

        self.head = self._again(fit)
        self._usual_examples = self.tally.usual_examples
        return self.tally

    def validate_head(self, grid: Grid, timeout: float) -> tuple[Tally, dict[int, int]] | None:
        """Have clients say how good the head alone is on the images they have held out: what training has to beat.
        Returns the replies, and the bytes sent; None where the first round asks, or clients hold nothing out, or the
        head is not fitted.
        """
        wanted = self._held_out.wanted and isinstance(self._head_kind, FittedHead) and not self.server_round
        if not wanted or self._held_out.leave_to_next(0):
            return None
        self._sent = {}
        self._ask_all(0, self.arrays(), ConfigRecord(), grid, timeout)
        return self.tally, dict(self._sent)

    # -- Flower's Strategy interface -----------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message to each client of this round's sample, which depends on (seed, round) and the connected client
        ids only. A client is sent what it lacks of the model; ``arrays`` is the whole, for those who hold nothing.
        """
        online = self._enrolment.online(grid)
        sample = draw_sample(online, self._closing.asked(len(online)), self._seed, server_round)
        self._wanted = self._closing.wanted(len(online))
        self._slots = {client: slot for slot, client in enumerate(sample)}
        contents = self._mail.model_for(sample, arrays, self.parts)
        orders = self.orders(server_round) | self._held_out.order()
        for client, slot in self._slots.items():
            contents[client]["round"] = ConfigRecord({**config, **orders, "round": server_round, "slot": slot})
        self._sent = {client: model_bytes(content) for client, content in contents.items()}
        return self._mail.address({client: online[client] for client in sample}, contents, TRAIN, str(server_round))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Decode and fold replies as they come.

        Bad replies are dropped and counted in ``tally``, and the round goes on.

        Raises
        ------
        RoundError
            If fewer replies than the quorum are usable; the global model then stays as it was.
        """
        self.begin_round(server_round)
        self._aggregate_seconds, self._example, self.limited = 0.0, None, {}

        def timed(client: int, update: Update) -> None:
            begun = time.perf_counter()
            self.accept(update, server_round, self._slots[client])
            self._aggregate_seconds += time.perf_counter() - begun
            # An example to look at: the payload of the lowest slot, whoever answers first.
            payload = update.parts["payload"]
            first = self._example is None or self._slots[client] < self._slots[self._example[0]]
            if first and len(payload) <= _KEPT_BYTES:
                self._example = client, payload

        optional = (PERSONAL,) * self._personal_test + (HELD_OUT,) * bool(self._held_out.order())
        self._mail.collect(replies, self.expected(server_round), timed, optional=optional, fit=self.tells_fit)
        self._mail.require_quorum(f"round {server_round}")
        self._held_out.hear(self.tally, self._tensors_of, self.head)
        self.end_round(server_round)
        client_of = {slot: client for client, slot in self._slots.items()}
        self.tally.limited |= {client_of[slot]: verdict for slot, verdict in self.limited.items()}
        self._usual_examples = self.tally.usual_examples
        self.server_round = server_round
        return self.arrays(), MetricRecord({"clients": len(self.tally.payload_bytes), **self.tally.fit})

    def counted(self, update: Update, slot: int) -> int:
        """Examples that a reply counts for, where replies are added as they come: the median is that of the round
        before, or of the head round.
        """
        examples, verdict = self._limits.counted(update.examples, self._usual_examples)
        if verdict.factor < 1:
            self.limited[slot] = verdict
        return examples

    def _enough(self, seconds: float) -> bool:
        """Whether to close the round that has been open for so long."""
        enough = self._closing.enough(len(self.tally.payload_bytes), self._wanted, seconds)
        if enough:
            self.tally.missing = LATE
        return enough

    def _tensors_of(self, server_round: int) -> dict[str, torch.Tensor]:
        """Of the model as it is now; of round 0, of the head alone."""
        return self.tensors() if server_round else self.untrained()

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every connected client how good the model is on the images it has held out."""
        if not self._held_out.wanted:
            return []
        clients = self._enrolment.connected(set(grid.get_node_ids()))
        contents = self._mail.model_for(list(clients), arrays, self.parts)
        for client, content in contents.items():
            content["round"] = ConfigRecord({"round": server_round, "slot": 0})
            self._sent[client] = self._sent.get(client, 0) + model_bytes(content)
        return self._mail.address(clients, contents, EVALUATE, f"{server_round}-validation")

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Collect the clients' accuracies; bad replies are dropped and counted in ``tally``, and none is required."""
        self._mail.collect(replies, {}, lambda client, update: None, optional=(BALANCED,), least_examples=0)
        figures = fairness(self.tally)
        return None if figures is None else MetricRecord({**figures})

    def _ask_all(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid, timeout: float
    ) -> MetricRecord | None:
        """Ask every connected client about a model, by a message of its own."""
        questions = self.configure_evaluate(server_round, arrays, config, grid)
        figures = self.aggregate_evaluate(server_round, exchange(grid, questions, timeout))
        self._held_out.look(server_round, self.tally, self._tensors_of, self.head)
        return figures

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
        """Flower's loop, with five differences: replies are decoded while others still train, ``on_round`` hears of
        each round when it ends, the first round is the one after `server_round`, one with too few usable replies is
        tried again, and the run ends where patience does.
        """
        result = Result()
        result.arrays = arrays = initial_arrays

        def train(server_round: int) -> tuple[ArrayRecord | None, MetricRecord | None, dict[str, float]]:
            begun = time.perf_counter()
            replies = exchange(
                grid,
                self.configure_train(server_round, arrays, train_config or ConfigRecord(), grid),
                timeout,
                sum(part.limit for part in self.expected(server_round).values()),
                self._enough,
            )
            configured = time.perf_counter()
            found = self.aggregate_train(server_round, replies)
            return *found, {"configure": configured - begun, "train": time.perf_counter() - configured}

        for server_round in range(self.server_round + 1, num_rounds + 1):
            new_arrays, metrics, seconds = self._again(partial(train, server_round))
            trained = time.perf_counter()
            result.arrays = arrays = new_arrays or arrays
            result.train_metrics_clientapp[server_round] = metrics or MetricRecord()
            evaluation = evaluate_fn(server_round, arrays) if evaluate_fn else None
            if evaluation is not None:
                result.evaluate_metrics_serverapp[server_round] = evaluation
            evaluated, tally, validation = time.perf_counter(), self.tally, None
            due = self._held_out.wanted and (evaluation is not None or evaluate_fn is None)
            if due and (server_round == num_rounds or not self._held_out.leave_to_next(server_round)):
                figures = self._ask_all(server_round, arrays, evaluate_config or ConfigRecord(), grid, timeout)
                validation = self.tally
                if figures is not None:
                    result.evaluate_metrics_clientapp[server_round] = figures
            seconds |= {
                "aggregate": self._aggregate_seconds,
                "evaluate": evaluated - trained,
                "validate": time.perf_counter() - evaluated,
            }
            said = validation, self._held_out.earlier, self._example
            on_round(RoundReport(server_round, tally, self._sent, self.digest, evaluation, seconds, *said))
            if self.keeper.gave_up:
                break
        return result
