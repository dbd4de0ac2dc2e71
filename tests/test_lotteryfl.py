"""LotteryFL: clients prune for themselves, the server averages each weight over those that keep it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict

from common.config.node import parse_node_config
from common.config.run import RunConfig, parse_run_config
from common.errors import ConfigError, WrongModel
from common.messages import (
    EVALUATE,
    HEAD,
    HELLO,
    TRAIN,
    Hello,
    Update,
    pack_classes,
    pack_global,
    pack_hello,
    pack_update,
    unpack_evaluation,
    unpack_global,
    unpack_hello,
    unpack_round,
    unpack_update,
)
from common.methods.fedavg.payload import pack_weights, weights_digest
from common.methods.fedavg.vector import join_weights, split_weights
from common.methods.lotteryfl.downwards import pack_everything, pack_kept, unpack_global_weights
from common.methods.lotteryfl.ticket import mask_digest, pack_ticket, ticket_bytes, unpack_ticket
from common.models import Activations, Head, TailWeights, load_backbone
from common.uniforms import stream_seed
from common.wire import HEADER_BYTES, METHODS, Header, pack_payload, read_header
from deltamask_client.app import app
from deltamask_client.epochs import Recipe
from deltamask_client.methods.fedavg.training import train_weights
from deltamask_client.methods.lotteryfl.pruning import prune
from deltamask_client.site import load_site, recipe_of
from deltamask_server.enrolment import Enrolment
from deltamask_server.methods.fedavg.strategy import FedAvg
from deltamask_server.methods.lotteryfl.strategy import LotteryFL
from tests.e2e.in_process import run_in_process
from tests.federation import CLASSES, DIGEST, FEATURES, METRICS, SEED, D
from tests.grid import MemoryGrid, Node, answer

TAIL = np.linspace(-1, 1, 50, dtype=np.float32)
COUNT = len(TAIL) + CLASSES * (FEATURES + 1)
BASE = b"12345678"


# -- the server


Change = Callable[[Header, bytes], tuple[Header, bytes]]


class Sites:
    """Clients that send fixed weights under fixed masks, and say so; what they were sent is written down."""

    def __init__(self, masks: dict[int, np.ndarray], examples: dict[int, int] | None = None) -> None:
        self.masks, self.examples = masks, examples or {}
        self.received: list[tuple[int, bytes, bytes | None]] = []
        self.names = True
        self.broken: set[int] = set()
        self.change: dict[int, Change] = {}

    def node(self, client: int) -> Node:
        def handle(message: Message) -> list[Message]:
            kind = message.metadata.message_type
            if kind == HELLO:
                return [answer(message, pack_hello(Hello(client, DIGEST, D)))]
            if kind == HEAD or client in self.broken:
                return [answer(message, Error(2, "none"))]
            sent, head = unpack_global(message.content.array_records["arrays"])
            self.received.append((client, sent, head))
            server_round, slot = unpack_round(message.content)
            mask = self.masks[client]
            payload = pack_ticket(trained(client), mask, server_round, slot, sent[:8])
            if client in self.change:
                payload = pack_payload(*self.change[client](read_header(payload)[0], payload[HEADER_BYTES:]))
            holds = mask_digest(mask) if self.names else None
            update = pack_update(payload, METRICS | {"examples": self.examples.get(client, 10)}, holds)
            return [answer(message, update)]

        return handle

    def grid(self, ids: list[int]) -> MemoryGrid:
        return MemoryGrid({100 + number: self.node(client) for number, client in enumerate(ids)})


def trained(client: int) -> np.ndarray:
    return np.random.default_rng(client).standard_normal(COUNT).astype(np.float32)


def lottery(**options: object) -> LotteryFL:
    enrolment = Enrolment(DIGEST, D, min_clients=2, wait_seconds=0.2, say=lambda line: None)
    return LotteryFL(enrolment, tail=TAIL, classes=CLASSES, features=FEATURES, seed=SEED, quorum=2, **options)


def play(strategy: FedAvg, sites: Sites, ids: list[int], rounds: int = 1) -> list:
    reports: list = []
    strategy.start(sites.grid(ids), strategy.arrays(), rounds, 0.3, on_round=reports.append)
    return reports


def masks(count: int = 3, share: float = 0.5) -> dict[int, np.ndarray]:
    found = {client: np.random.default_rng(50 + client).random(COUNT) < share for client in range(count)}
    for mask in found.values():
        mask[[4, 60]] = False  # nobody keeps these
        mask[7] = True
    return found


def test_each_weight_is_the_mean_over_those_that_keep_it_whoever_answers_first() -> None:
    kept, examples = masks(), {0: 3, 1: 7, 2: 1}
    found = []
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        strategy = lottery()
        (report,) = play(strategy, Sites(kept, examples), order)
        assert not report.tally.failures
        found.append(strategy.weights)
    assert all(np.array_equal(found[0], other) for other in found)
    before = join_weights(TAIL, lottery().head)
    holders = sum(mask.astype(int) for mask in kept.values())
    assert set(holders) == {0, 1, 2, 3}
    for position in range(COUNT):
        of = [client for client in range(3) if kept[client][position]]
        if not of:
            assert found[0][position] == before[position], "a weight that nobody keeps stays"
            continue
        # In whole numbers: the steps of 2^-26 that each value is rounded to.
        steps = [round(Fraction(float(trained(client)[position])) * 2**26) * examples[client] for client in of]
        mean = Fraction(sum(steps), sum(examples[client] for client in of) * 2**26)
        assert found[0][position] == np.float32(float(mean))


def test_where_nobody_prunes_it_is_fedavg() -> None:
    everything = {client: np.ones(COUNT, np.bool_) for client in range(2)}
    strategy = lottery()
    play(strategy, Sites(everything, {0: 2, 1: 5}), [0, 1])
    enrolment = Enrolment(DIGEST, D, min_clients=2, wait_seconds=0.2, say=lambda line: None)
    fedavg = FedAvg(enrolment, tail=TAIL, classes=CLASSES, features=FEATURES, seed=SEED, quorum=2)

    class Plain(Sites):
        def node(self, client: int) -> Node:
            honest = super().node(client)

            def handle(message: Message) -> list[Message]:
                if message.metadata.message_type != TRAIN:
                    return honest(message)
                base = weights_digest(np.frombuffer(b"".join(unpack_global(message.content["arrays"])), "<f4"))
                payload = pack_weights(trained(client), *unpack_round(message.content), base)
                return [answer(message, pack_update(payload, METRICS | {"examples": self.examples[client]}))]

            return handle

    play(fedavg, Plain(everything, {0: 2, 1: 5}), [0, 1])
    assert np.array_equal(strategy.weights, fedavg.weights)
    assert strategy.digest == fedavg.digest


def test_who_says_which_mask_it_holds_is_sent_what_it_keeps() -> None:
    strategy, sites = lottery(), Sites(masks(2))
    first, second = play(strategy, sites, [0, 1], rounds=2)
    assert set(first.downlink_bytes.values()) == {16 + 4 * COUNT + 4 * CLASSES * (FEATURES + 1)}
    for client, sent, head in sites.received[2:]:
        kept = sites.masks[client]
        assert second.downlink_bytes[client] == len(sent) == 16 + 4 * kept.sum()
        assert second.tally.payload_bytes[client] == ticket_bytes(COUNT) - 4 * (COUNT - kept.sum())
        assert head is None
        # The second round gives the same mean, since everybody sends the same again.
        found = unpack_global_weights(sent, None, kept, len(TAIL), CLASSES, FEATURES)
        assert np.array_equal(found.weights, strategy.weights * kept)
        assert found.digest == strategy.digest == second.digest


def test_everybody_else_is_sent_everything_with_the_first_head() -> None:
    strategy, sites = lottery(), Sites(masks(3))
    strategy.head = Head(np.full((CLASSES, FEATURES), 0.5, np.float32), np.zeros(CLASSES, np.float32))
    first_head = strategy.head
    sites.names = False
    play(strategy, sites, [0, 1], rounds=2)
    for _, sent, head in sites.received[2:]:
        assert head is not None
        assert head == strategy.head.to_bytes() != first_head.to_bytes()
        assert sent[:16] == strategy.digest + bytes(8)
        assert sent[16:] == strategy.weights[: len(TAIL)].tobytes() + first_head.to_bytes()
    # A mask is remembered as long as somebody holds it, and no longer.
    sites.names = True
    play(strategy, sites, [0, 1, 2])
    sizes = {client: len(strategy.message(mask_digest(mask))) for client, mask in sites.masks.items()}
    assert sizes == {client: 16 + 4 * mask.sum() for client, mask in sites.masks.items()}
    old = mask_digest(sites.masks[0])
    sites.masks[0] = sites.masks[0] & (np.arange(COUNT) % 2 == 0)
    sites.broken = {2}
    play(strategy, sites, [0, 1, 2])
    assert len(strategy.message(old)) > 4 * COUNT
    assert len(strategy.message(mask_digest(sites.masks[0]))) < sizes[0]
    assert len(strategy.message(mask_digest(sites.masks[2]))) > 4 * COUNT, "it answered with an error"
    assert strategy.head_for(old) is strategy.head


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("bad-code", lambda fields, body: (fields, bytes([body[0] ^ 1]) + body[1:])),
        ("truncated", lambda fields, body: (fields, body[:-4])),
        ("bad-metric", lambda fields, body: (fields, body[:-4] + np.float32(np.nan).tobytes())),
        ("wrong-round", lambda fields, body: (replace(fields, round=2), body)),
        ("wrong-model", lambda fields, body: (replace(fields, base_digest=bytes(8)), body)),
        ("wrong-format", lambda fields, body: (replace(fields, method=METHODS["fedavg"]), body)),
    ],
)
def test_a_bad_reply_changes_nothing(reason: str, change: Change) -> None:
    kept = masks(2) | {2: np.ones(COUNT, np.bool_)}
    honest, attacked, sites = lottery(), lottery(), Sites(kept)
    play(honest, Sites(kept), [0, 1])
    sites.change[2] = change
    (report,) = play(attacked, sites, [0, 1, 2])
    assert report.tally.failures == {2: reason}
    assert np.array_equal(attacked.weights, honest.weights)
    assert len(attacked.message(mask_digest(kept[2]))) > 4 * COUNT, "its mask was not remembered"


def test_examples_beyond_what_the_sum_holds_are_refused() -> None:
    kept = masks(3)
    strategy, honest = lottery(), lottery()
    (report,) = play(strategy, Sites(kept, {2: 2**28 + 1}), [0, 1, 2])
    play(honest, Sites(kept), [0, 1])
    assert report.tally.failures == {2: "bad-metric"}
    assert np.array_equal(strategy.weights, honest.weights)


# -- the client

RUN = RunConfig(
    method="lotteryfl",
    train_limit=120,
    local_epochs=1,
    masked_blocks=1,
    weight_learning_rate=0.001,
    lottery_accuracy=0.0,
    lottery_step=0.3,
    density=0.6,
)


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("letters-vit", "default", 0, 1)


@pytest.fixture(scope="module")
def heads(backbone) -> tuple[Head, Head]:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((2, 10, backbone.features)).astype(np.float32) / 11
    first, now = (Head(weight, np.zeros(10, np.float32)) for weight in weights)
    return first, now


def ask(tmp_path: Path, content: RecordDict, kind: str = TRAIN, run: RunConfig = RUN) -> Message:
    message = Message(content, dst_node_id=1, message_type=kind)
    message.metadata.__dict__["_message_id"] = "m"
    return app(message, Context(7, 0, node_values(tmp_path), RecordDict(), run.as_dict()))


def node_values(tmp_path: Path) -> dict[str, int | str]:
    return {"partition-id": 1, "num-partitions": 4, "cache-dir": str(tmp_path / "cache")}


def training(data: bytes, head: Head | None, server_round: int) -> RecordDict:
    content = pack_classes(tuple("0123456789"))
    content["arrays"] = pack_global(data, head)
    content["round"] = ConfigRecord({"round": server_round, "slot": 0})
    return content


def update_of(reply: Message) -> Update:
    assert not reply.has_error(), reply.error
    return unpack_update(reply.content, 10**7)


def expected(tmp_path: Path, backbone, start: np.ndarray, kept: np.ndarray, server_round: int) -> np.ndarray:
    """What training from ``start`` gives, under the mask."""
    config = parse_node_config(node_values(tmp_path))
    site = load_site(RUN, config, tuple("0123456789"))
    tail, head = split_weights(start, 10, backbone.features)
    result = train_weights(
        backbone,
        head,
        site.activations,
        site.labels,
        tail,
        recipe_of(RUN, config, RUN.weight_learning_rate),
        seed=stream_seed(RUN.seed, server_round, 1, "train"),
        kept=kept,
    )
    return join_weights(result.tail, result.head)


def test_only_weights_of_layers_may_be_pruned(backbone) -> None:
    masked, tail = TailWeights(backbone).masked, TailWeights(backbone)
    assert masked.sum() == backbone.masks.d
    of_layers = np.concatenate([np.full(p.numel(), p.ndim >= 2) for p in tail.parameters])
    assert np.array_equal(masked, of_layers)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_pruned_weights_stay_at_zero_and_the_others_train_as_if_masked_in_every_step(backbone, optimiser) -> None:
    rng = np.random.default_rng(0)
    activations = Activations(backbone, rng.integers(0, 256, (40, 8, 8), dtype=np.uint8), keep="memory")
    labels, head = rng.integers(0, 3, 40), Head(np.zeros((3, 128), np.float32), np.zeros(3, np.float32))
    tail = TailWeights(backbone)
    frozen = tail.read()
    kept = rng.random(tail.count + 3 * 129) < 0.5
    kept[tail.count :] = True
    start = np.where(kept[: tail.count], frozen, np.float32(0))
    recipe = Recipe(2, 10, 0.01 if optimiser == "sgd" else 1e-3, optimiser)
    found = train_weights(backbone, head, activations, labels, start, recipe, seed=1, kept=kept)
    still = ~kept[: tail.count]
    assert not found.tail[still].any()
    assert (found.tail != start)[~still].mean() > 0.7
    assert np.array_equal(tail.read(), frozen)

    # The other way to hold them: free gradients, and zeros written after every step. No bit of the rest differs.
    written: list[np.ndarray] = []

    def mask(*_: object) -> None:
        written.append(tail.read() * ~still)
        tail.write(written[-1])

    by_hand = train_weights(backbone, head, activations, labels, start, recipe, seed=1, progress=mask)
    assert len(written) == 8
    assert np.array_equal(by_hand.tail[~still], found.tail[~still])
    assert by_hand.head.to_bytes() == found.head.to_bytes()
    # Nothing stays held for whoever trains next.
    free = train_weights(backbone, head, activations, labels, start, recipe, seed=1)
    assert free.tail[still].any()


def test_a_client_that_is_good_enough_prunes_and_goes_back_to_the_start(
    tmp_path: Path, backbone, heads: tuple[Head, Head]
) -> None:
    first, now = heads
    tail = TailWeights(backbone)
    frozen = tail.read()
    moved = (frozen * np.linspace(0.5, 1.5, len(frozen))).astype(np.float32)
    weights = join_weights(moved, now)
    count, prunable = len(weights), np.concatenate([tail.masked, np.ones(1280, np.bool_), np.zeros(10, np.bool_)])
    digest = weights_digest(weights)
    base = join_weights(frozen, first)

    update = update_of(ask(tmp_path, training(pack_everything(moved, first, digest), now, 1)))
    kept, values = unpack_ticket(update.payload, count, 1, 0, digest)
    assert np.array_equal(kept, prune(weights, np.ones(count, np.bool_), prunable, 0.3, 0.6))
    assert prunable.sum() - (~kept).sum() == np.floor(0.7 * prunable.sum())
    assert np.array_equal(values, expected(tmp_path, backbone, np.where(kept, base, np.float32(0)), kept, 1)[kept])
    assert update.holds == mask_digest(kept)
    hello = unpack_hello(ask(tmp_path, RecordDict(), HELLO).content)
    assert hello.holds == update.holds, "a client that starts again says what it holds"

    # The next round brings what it keeps alone; it prunes once more, down to the density, and then no more.
    second = update_of(ask(tmp_path, training(pack_kept(weights, kept, BASE), None, 2)))
    fewer, values = unpack_ticket(second.payload, count, 2, 0, BASE)
    assert np.array_equal(fewer, prune(weights, kept, prunable, 0.3, 0.6))
    assert (fewer & prunable).sum() == np.ceil(0.6 * prunable.sum())
    assert np.array_equal(values, expected(tmp_path, backbone, np.where(fewer, base, np.float32(0)), fewer, 2)[fewer])
    third = update_of(ask(tmp_path, training(pack_kept(weights, fewer, BASE), None, 3)))
    same, values = unpack_ticket(third.payload, count, 3, 0, BASE)
    assert np.array_equal(same, fewer)
    # Without pruning there is no way back: training goes on from the global weights.
    assert np.array_equal(
        values, expected(tmp_path, backbone, np.where(fewer, weights, np.float32(0)), fewer, 3)[fewer]
    )


def test_a_client_that_is_not_good_enough_prunes_nothing(tmp_path: Path, backbone, heads: tuple[Head, Head]) -> None:
    first, now = heads
    frozen = TailWeights(backbone).read()
    run = RUN.model_copy(update={"lottery_accuracy": 0.9, "validation_fraction": 0.2})
    message = training(pack_everything(frozen, first, BASE), now, 1)
    before = unpack_evaluation(ask(tmp_path, message, EVALUATE, run).content)
    assert before.holds is None, "a question gives nobody a mask"
    assert before.examples == 6
    assert before.metrics["accuracy"] < 0.9
    update = update_of(ask(tmp_path, message, run=run))
    kept, _ = unpack_ticket(update.payload, len(frozen) + 1290, 1, 0, BASE)
    assert kept.all()
    assert unpack_evaluation(ask(tmp_path, message, EVALUATE, run).content).holds == update.holds == mask_digest(kept)


def test_a_client_that_lost_its_mask_says_so_and_starts_from_all_weights(
    tmp_path: Path, backbone, heads: tuple[Head, Head]
) -> None:
    first, now = heads
    frozen = TailWeights(backbone).read()
    everything = training(pack_everything(frozen, first, BASE), now, 1)
    before = update_of(ask(tmp_path, everything))
    weights = join_weights(frozen, now)
    kept, _ = unpack_ticket(before.payload, len(weights), 1, 0, BASE)
    # Another mask than its own, as after a reply that was lost: it does not guess.
    other = kept.copy()
    other[-1] = False
    refusal = ask(tmp_path, training(pack_kept(weights, other, BASE), None, 2))
    assert refusal.error.reason.startswith(WrongModel.__name__)

    (path,) = (tmp_path / "cache" / "tickets").iterdir()
    for loss in (lambda: path.write_bytes(b"damaged"), path.unlink):
        loss()
        assert unpack_hello(ask(tmp_path, RecordDict(), HELLO).content).holds is None
        refusal = ask(tmp_path, training(pack_kept(weights, kept, BASE), None, 2))
        assert refusal.error.reason.startswith(WrongModel.__name__)
        assert update_of(ask(tmp_path, everything)).payload == before.payload
    # All weights under a mask that it does not remember having: the head to go back to is missing.
    path.unlink()
    refusal = ask(tmp_path, training(pack_kept(weights, np.ones(len(weights), np.bool_), BASE), None, 2))
    assert refusal.error.reason.startswith(WrongModel.__name__)
    # A file system that takes nothing costs bytes in the next round, no more.
    (tmp_path / "cache" / "tickets").rmdir()
    (tmp_path / "cache" / "tickets").write_text("in the way")
    update = update_of(ask(tmp_path, everything))
    assert update.payload == before.payload
    assert update.holds is None


# -- all of it


def test_a_whole_run(tmp_path: Path) -> None:
    config = {"method": "lotteryfl", "personal-test": True, "train-limit": 160, "test-limit": 100, "local-epochs": 1}
    config |= {"num-server-rounds": 4, "head-epochs": 20, "masked-blocks": 1, "weight-learning-rate": 0.001}
    config |= {"partitioner": "pathological", "classes-per-client": 3, "validation-fraction": 0.2}
    config |= {"lottery-step": 0.3, "lottery-accuracy": 0.4, "density": 0.4}
    nodes = [{"partition-id": number, "num-partitions": 2} for number in range(2)]
    results = run_in_process(tmp_path, config, nodes)
    assert results["status"] == "completed"
    backbone = load_backbone("letters-vit", "default", 0, 1)
    count = TailWeights(backbone).count + 1290
    prunable, bits = backbone.masks.d + 1280, (count + 7) // 8
    sizes = [prunable]
    while sizes[-1] > (least := -(-prunable * 4 // 10)):
        sizes.append(max(least, sizes[-1] * 7 // 10))
    rounds = results["rounds"]
    assert not any(entry["clients"]["failed"] or entry["validation"]["failed"] for entry in rounds)
    for client in ("0", "1"):
        up = [entry["uplink"]["payload_bytes"][client] for entry in rounds]
        sent = [(size - HEADER_BYTES - bits) // 4 for size in up]
        left = [kept - (count - prunable) for kept in sent]
        assert left == sorted(left, reverse=True)
        assert set(left) <= set(sizes)
        assert left[-1] < prunable
        # A round brings what the client keeps, and the question after it what it keeps then.
        down = [entry["downlink"]["payload_bytes"][client] for entry in rounds]
        assert down[0] > 4 * count + 4 * sent[0]
        assert down[1:] == [16 + 4 * before + 16 + 4 * after for before, after in itertools.pairwise(sent)]
    assert [set(entry["accuracy"]) for entry in rounds] == [{"mean"}] * 4
    assert all(len(entry["personal"]["clients"]) == 2 for entry in rounds)
    assert rounds[-1]["personal"]["mean"] > 0.7
    again = run_in_process(tmp_path / "again", config, nodes)
    assert [entry["digest"] for entry in again["rounds"]] == [entry["digest"] for entry in rounds]


def test_wrong_values_are_named() -> None:
    for values, part in [
        ({"density": 0}, "density = 0"),
        ({"density": 1.1}, "density = 1.1"),
        ({"lottery-step": 1}, "lottery-step = 1"),
        ({"lottery-accuracy": -0.1}, "lottery-accuracy = -0.1"),
    ]:
        with pytest.raises(ConfigError, match=part):
            parse_run_config(values)
    assert parse_run_config({"method": "lotteryfl", "density": 1}).density == 1
