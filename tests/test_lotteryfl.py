"""LotteryFL: clients prune for themselves, the server averages each weight over those that keep it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message

from common.config.run import parse_run_config
from common.errors import ConfigError
from common.messages import (
    HEAD,
    HELLO,
    TRAIN,
    Hello,
    pack_hello,
    pack_update,
    unpack_round,
)
from common.methods.fedavg.payload import WEIGHTS as FEDAVG
from common.methods.fedavg.payload import pack_weights, weights_digest
from common.methods.fedavg.vector import join_weights
from common.methods.hidenseek.config import DensitySection
from common.methods.lotteryfl.downwards import unpack_global_weights
from common.methods.lotteryfl.ticket import mask_digest, pack_ticket, ticket_bytes
from common.models.backbone import load_backbone
from common.models.heads import Head
from common.models.heads.linear_probe import LinearProbe
from common.models.tail_weights import TailWeights
from common.wire import HEADER_BYTES, Header, pack_payload, read_header
from deltamask_server.closing import Closing
from deltamask_server.enrolment import Enrolment
from deltamask_server.methods.fedavg.strategy import FedAvg
from deltamask_server.methods.lotteryfl.strategy import LotteryFL
from tests.e2e.in_process import run_in_process
from tests.federation import CLASSES, DIGEST, FEATURES, METRICS, SEED, D
from tests.grid import MemoryGrid, Node, answer

TAIL = np.linspace(-1, 1, 50, dtype=np.float32)
COUNT = len(TAIL) + CLASSES * (FEATURES + 1)
SHAPE = {"classes": CLASSES, "features": FEATURES, "head_kind": LinearProbe()}


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
            parts = message.content.array_records["parts"]
            sent, head = parts["weights"].data, parts["head"].data if "head" in parts else None
            self.received.append((client, sent, head))
            server_round, slot = unpack_round(message.content)
            mask = self.masks[client]
            payload = pack_ticket(trained(client), mask, server_round, slot, sent[:8])
            if client in self.change:
                payload = pack_payload(*self.change[client](read_header(payload)[0], payload[HEADER_BYTES:]))
            holds = mask_digest(mask) if self.names else None
            update = pack_update({"payload": payload}, METRICS | {"examples": self.examples.get(client, 10)}, holds)
            return [answer(message, update)]

        return handle

    def grid(self, ids: list[int]) -> MemoryGrid:
        return MemoryGrid({100 + number: self.node(client) for number, client in enumerate(ids)})


def trained(client: int) -> np.ndarray:
    return np.random.default_rng(client).standard_normal(COUNT).astype(np.float32)


def lottery(**options: object) -> LotteryFL:
    enrolment = Enrolment(DIGEST, D, min_clients=2, wait_seconds=0.2, say=lambda line: None)
    return LotteryFL(enrolment, tail=TAIL, **SHAPE, seed=SEED, closing=Closing(), **options)


def play(strategy: FedAvg, sites: Sites, ids: list[int], rounds: int = 1) -> list:
    reports: list = []
    strategy.start(sites.grid(ids), strategy.arrays(), strategy.server_round + rounds, 0.3, on_round=reports.append)
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
    fedavg = FedAvg(enrolment, tail=TAIL, **SHAPE, seed=SEED, closing=Closing())

    class Plain(Sites):
        def node(self, client: int) -> Node:
            honest = super().node(client)

            def handle(message: Message) -> list[Message]:
                if message.metadata.message_type != TRAIN:
                    return honest(message)
                base = weights_digest(
                    np.frombuffer(b"".join(message.content["parts"][name].data for name in ("weights", "head")), "<f4")
                )
                payload = pack_weights(trained(client), *unpack_round(message.content), base)
                return [
                    answer(message, pack_update({"payload": payload}, METRICS | {"examples": self.examples[client]}))
                ]

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
    sizes = {client: len(strategy.parts(mask_digest(mask))["weights"]) for client, mask in sites.masks.items()}
    assert sizes == {client: 16 + 4 * mask.sum() for client, mask in sites.masks.items()}
    old = mask_digest(sites.masks[0])
    sites.masks[0] = sites.masks[0] & (np.arange(COUNT) % 2 == 0)
    sites.broken = {2}
    play(strategy, sites, [0, 1, 2])
    assert len(strategy.parts(old)["weights"]) > 4 * COUNT
    assert len(strategy.parts(mask_digest(sites.masks[0]))["weights"]) < sizes[0]
    assert len(strategy.parts(mask_digest(sites.masks[2]))["weights"]) > 4 * COUNT, "it answered with an error"
    assert strategy.parts(old)["head"] == strategy.head.to_bytes()


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("bad-code", lambda fields, body: (fields, bytes([body[0] ^ 1]) + body[1:])),
        ("truncated", lambda fields, body: (fields, body[:-4])),
        ("bad-metric", lambda fields, body: (fields, body[:-4] + np.float32(np.nan).tobytes())),
        ("wrong-round", lambda fields, body: (replace(fields, round=2), body)),
        ("wrong-model", lambda fields, body: (replace(fields, base_digest=bytes(8)), body)),
        ("wrong-format", lambda fields, body: (replace(fields, method=FEDAVG), body)),
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
    assert len(attacked.parts(mask_digest(kept[2]))["weights"]) > 4 * COUNT, "its mask was not remembered"


def test_examples_beyond_what_the_sum_holds_are_refused() -> None:
    kept = masks(3)
    strategy, honest = lottery(), lottery()
    (report,) = play(strategy, Sites(kept, {2: 2**28 + 1}), [0, 1, 2])
    play(honest, Sites(kept), [0, 1])
    assert report.tally.failures == {2: "bad-metric"}
    assert np.array_equal(strategy.weights, honest.weights)


# -- all of it


def test_a_whole_run(tmp_path: Path) -> None:
    config = {"method": "lotteryfl", "personal-test": True, "train-limit": 160, "test-limit": 100, "local-epochs": 1}
    config |= {"num-server-rounds": 4, "masked-blocks": 1, "weight-learning-rate": 0.001}
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
        # A round brings what the client keeps, and the question after the last one what it keeps then.
        down = [entry["downlink"]["payload_bytes"][client] for entry in rounds]
        assert 4 * count < down[0] < 4 * count + 4 * sent[0]
        assert down[1:-1] == [16 + 4 * before for before in sent[:-2]]
        assert down[-1] == 16 + 4 * sent[-2] + 16 + 4 * sent[-1]
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
    assert parse_run_config({"method": "lotteryfl", "density": 1})[DensitySection].density == 1
