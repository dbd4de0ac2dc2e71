"""The Strategy against honest, broken and hostile clients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict

from common.codecs import SharedState, get_codec
from common.downlink import apply_chain
from common.errors import RoundError, WrongModel
from common.messages import HEAD, HELLO, Hello, pack_hello, pack_update, unpack_global
from common.models import Head
from common.posterior import empty_posterior, fold, mode
from common.theta import quantise, theta_digest
from deltamask_server.enrolment import Enrolment
from deltamask_server.exchange import exchange
from deltamask_server.strategy import DeltaMask, RoundReport
from tests.conftest import local_step
from tests.grid import MemoryGrid, Node, answer

SEGMENTS, CLASSES, FEATURES, SEED = (30_000, 20_000), 3, 4, 9
D, DIGEST = sum(SEGMENTS), b"12345678"
METRICS = {"examples": 10, "loss": 0.5, "accuracy": 0.8, "seconds": 1.0}


def node(client: int, change: Callable[[RecordDict, Message], list[RecordDict | Error]] | None = None) -> Node:
    """An honest client, or one whose training reply ``change`` replaces."""

    def handle(message: Message) -> list[Message]:
        if message.metadata.message_type == HELLO:
            return [answer(message, pack_hello(Hello(client, DIGEST, D)))]
        if message.metadata.message_type == HEAD:
            head = Head(np.full((CLASSES, FEATURES), client, np.float32), np.zeros(CLASSES, np.float32))
            return [answer(message, pack_update(head.to_bytes(), METRICS | {"examples": client + 1}))]
        content = honest_update(message, client)
        replies = [content] if change is None else change(content, message)
        return [answer(message, reply) for reply in replies]

    return handle


def received_theta(message: Message) -> np.ndarray:
    """What a client that holds nothing reads."""
    chain, head = unpack_global(message.content.array_records["arrays"])
    assert head is not None
    return apply_chain(chain, None, D, SEED, SEGMENTS)


def honest_update(message: Message, sender: int, **wrong: int) -> RecordDict:
    theta = received_theta(message)
    shared = SharedState(
        theta,
        wrong.get("seed", SEED),
        wrong.get("round", int(message.content["round"]["round"])),
        wrong.get("slot", int(message.content["round"]["slot"])),
    )
    return pack_update(get_codec("fuse8").encode(local_step(theta, seed=sender), shared), METRICS)


def strategy(quorum: int = 2, wait: float = 0.2, **options: Any) -> DeltaMask:
    enrolment = Enrolment(DIGEST, D, min_clients=quorum, wait_seconds=wait, say=lambda line: None)
    return DeltaMask(
        enrolment, segments=SEGMENTS, classes=CLASSES, features=FEATURES, seed=SEED, quorum=quorum, **options
    )


def run_rounds(deltamask: DeltaMask, grid: MemoryGrid, rounds: int = 1, timeout: float = 0.3) -> list[RoundReport]:
    reports: list[RoundReport] = []
    deltamask.start(grid, deltamask.arrays(), rounds, timeout, on_round=reports.append)
    return reports


def test_a_round_equals_folding_the_clients_masks_by_hand() -> None:
    deltamask = strategy()
    theta = deltamask.theta.copy()
    assert np.array_equal(theta, np.full(D, quantise(0.95)))
    posterior = empty_posterior(D)
    grid = MemoryGrid({100 + client: node(client) for client in range(4)})
    (report,) = run_rounds(deltamask, grid)
    slots = {m.metadata.dst_node_id - 100: int(m.content["round"]["slot"]) for m in grid.sent if "round" in m.content}
    assert sorted(slots.values()) == [0, 1, 2, 3]
    for client, slot in slots.items():
        shared = SharedState(theta, SEED, 1, slot)
        codec = get_codec("fuse8")
        posterior = fold(posterior, codec.decode(codec.encode(local_step(theta, seed=client), shared), shared))
    assert np.array_equal(deltamask.theta, mode(posterior))
    assert set(report.tally.payload_bytes) == {0, 1, 2, 3}
    assert len(set(report.downlink_bytes.values())) == 1
    assert report.tally.mean("loss") == 0.5


def test_theta_does_not_depend_on_node_ids_or_on_arrival() -> None:
    thetas = []
    for ids in ([5, 6, 7], [70, 3, 41]):
        deltamask = strategy()
        run_rounds(deltamask, MemoryGrid({number: node(client) for client, number in enumerate(ids)}), rounds=3)
        thetas.append(deltamask.theta)
    assert np.array_equal(thetas[0], thetas[1])


def test_participation_samples_by_seed_and_round_and_keeps_the_posterior_between_resets() -> None:
    deltamask = strategy(participation=0.5)
    reports = run_rounds(deltamask, MemoryGrid({client: node(client) for client in range(8)}), rounds=4)
    asked = [report.tally.asked for report in reports]
    assert all(len(clients) == 4 for clients in asked)
    assert len(set(asked)) > 1
    again = run_rounds(strategy(participation=0.5), MemoryGrid({c: node(c) for c in range(8)}), rounds=4)
    assert [report.tally.asked for report in again] == asked
    # Four masks after rounds 1 and 3, eight after rounds 2 and 4: theta lies on quarters, then on eighths.
    quarters = {int(quantise(np.clip(k / 4, 0.01, 0.99))) for k in range(5)}
    assert set(reports[0].theta.tolist()) <= quarters
    assert not set(reports[1].theta.tolist()) <= quarters
    assert set(reports[2].theta.tolist()) <= quarters


def edit_payload(edit: Callable[[bytes], bytes]) -> Callable[[RecordDict, Message], list[RecordDict | Error]]:
    def change(content: RecordDict, message: Message) -> list[RecordDict | Error]:
        return [pack_update(edit(content["update"]["payload"]), METRICS)]

    return change


def metrics(**values: float) -> Callable[[RecordDict, Message], list[RecordDict | Error]]:
    return lambda content, message: [pack_update(content["update"]["payload"], METRICS | values)]


def other(**wrong: int) -> Callable[[RecordDict, Message], list[RecordDict | Error]]:
    return lambda content, message: [honest_update(message, 2, **wrong)]


def without(record: str) -> Callable[[RecordDict, Message], list[RecordDict | Error]]:
    return lambda content, message: [RecordDict({name: content[name] for name in content if name != record})]


def wrong_theta(content: RecordDict, message: Message) -> list[RecordDict | Error]:
    slot = int(message.content["round"]["slot"])
    shared = SharedState(np.full(D, 40_000, np.uint16), SEED, 1, slot)
    return [pack_update(get_codec("fuse8").encode(np.full(D, 0.5, np.float32), shared), METRICS)]


def everything(content: RecordDict, message: Message) -> list[RecordDict | Error]:
    """A filter of all positions under a header that claims ten."""
    theta, slot = received_theta(message), int(message.content["round"]["slot"])
    shared = SharedState(theta, SEED, 1, slot)
    codec = get_codec("fuse8")
    payload = codec.encode(np.where(shared.mask(), 0, 1).astype(np.float32), shared)
    from common.wire import HEADER_BYTES, Header, pack_payload

    return [pack_update(pack_payload(Header(1, 1, slot, D, D // 2, shared.digest), payload[HEADER_BYTES:]), METRICS)]


HOSTILE: dict[str, tuple[str, Callable[[RecordDict, Message], list[RecordDict | Error]]]] = {
    "truncated": ("checksum", edit_payload(lambda payload: payload[:-7])),
    "nearly empty": ("truncated", edit_payload(lambda payload: payload[:5])),
    "empty": ("truncated", edit_payload(lambda payload: b"")),
    "garbled": ("checksum", edit_payload(lambda payload: payload[:200] + bytes([payload[200] ^ 1]) + payload[201:])),
    "oversized": ("oversized", edit_payload(lambda payload: payload + bytes(10_000_000))),
    "noise": ("wrong-format", edit_payload(lambda payload: bytes(1000))),
    "other round": ("wrong-round", other(round=3)),
    "other client": ("wrong-client", other(slot=7)),
    "other theta": ("wrong-model", wrong_theta),
    "all-ones filter": ("implausible-delta", everything),
    "NaN loss": ("bad-metric", metrics(loss=math.nan)),
    "infinite seconds": ("bad-metric", metrics(seconds=math.inf)),
    "no examples": ("bad-metric", metrics(examples=0)),
    "huge weight": ("bad-metric", metrics(examples=1e300)),
    "accuracy above 1": ("bad-metric", metrics(accuracy=7.0)),
    "no metrics": ("wrong-format", without("metrics")),
    "no payload": ("wrong-format", without("update")),
    "surplus record": (
        "wrong-format",
        lambda content, message: [RecordDict({**content, "more": ConfigRecord({"list": []})})],
    ),
    "wrong types": (
        "wrong-format",
        lambda content, message: [RecordDict({"update": MetricRecord({"payload": 1}), "metrics": content["metrics"]})],
    ),
    "exception": ("client-error", lambda content, message: [Error(2, "ValueError")]),
    "dead node": ("node-unavailable", lambda content, message: [Error(5, "gone")]),
    "silence": ("no-reply", lambda content, message: []),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_reply_is_dropped_and_counted_and_the_round_goes_on(name: str) -> None:
    reason, change = HOSTILE[name]
    honest = strategy()
    run_rounds(honest, MemoryGrid({0: node(0), 1: node(1)}))
    deltamask = strategy()
    (report,) = run_rounds(deltamask, MemoryGrid({0: node(0), 1: node(1), 2: node(2, change)}))
    assert dict(report.tally.dropped) == {reason: 1}
    assert report.tally.failures == {2: reason}
    assert set(report.tally.payload_bytes) == {0, 1}
    assert np.array_equal(deltamask.theta, honest.theta), "the bad reply left a trace"


def test_a_second_reply_of_one_client_is_dropped() -> None:
    # Flower's exchange yields one reply a message; the Strategy itself must not rely on that.
    deltamask, grid = strategy(), MemoryGrid({client: node(client) for client in range(3)})
    messages = list(deltamask.configure_train(1, deltamask.arrays(), ConfigRecord(), grid))
    replies = list(exchange(grid, messages, 1.0))
    deltamask.aggregate_train(1, [*replies, replies[0]])
    assert dict(deltamask.tally.dropped) == {"duplicate": 1}
    assert deltamask.tally.failures == {}
    assert len(deltamask.tally.payload_bytes) == 3
    theta = deltamask.theta
    once = strategy()
    run_rounds(once, MemoryGrid({client: node(client) for client in range(3)}))
    assert np.array_equal(theta, once.theta)


def test_a_reply_to_an_unknown_message_is_dropped() -> None:
    deltamask, grid = strategy(), MemoryGrid({client: node(client) for client in range(2)})
    old = list(exchange(grid, list(deltamask.configure_train(1, deltamask.arrays(), ConfigRecord(), grid)), 1.0))
    messages = list(deltamask.configure_train(1, deltamask.arrays(), ConfigRecord(), grid))
    deltamask.aggregate_train(1, [*exchange(grid, messages, 1.0), old[0]])
    assert dict(deltamask.tally.dropped) == {"bad-payload": 1}


def test_a_round_without_quorum_ends_the_run_and_leaves_theta_alone() -> None:
    silent = HOSTILE["silence"][1]
    deltamask = strategy(quorum=3)
    before = deltamask.theta.copy()
    with pytest.raises(RoundError, match=r"2 of 3 replies usable in round 1, quorum is 3; failed: 1 no-reply"):
        run_rounds(deltamask, MemoryGrid({0: node(0), 1: node(1), 2: node(2, silent)}))
    assert np.array_equal(deltamask.theta, before)


def test_waiting_for_clients_is_bounded_and_says_who_was_refused() -> None:
    def stranger(message: Message) -> list[Message]:
        return [answer(message, pack_hello(Hello(1, b"otherone", D)))]

    def mute(message: Message) -> list[Message]:
        return [answer(message, RecordDict())]

    with pytest.raises(RoundError, match=r"1 usable clients after 0\.2 s, min-clients = 2; refused: .*frozen weights"):
        run_rounds(strategy(), MemoryGrid({0: node(0), 1: stranger, 2: mute}))


def test_a_restarted_client_is_followed_to_its_new_node() -> None:
    grid = MemoryGrid({10: node(0), 11: node(1)})
    deltamask = strategy()
    run_rounds(deltamask, grid)
    grid.nodes = {10: node(0), 11: lambda message: [], 12: node(1)}  # 11 is dead, and Flower has not noticed
    (report,) = run_rounds(deltamask, grid)
    assert {message.metadata.dst_node_id for message in grid.sent[-2:]} == {10, 12}
    assert set(report.tally.payload_bytes) == {0, 1}


class Keepers:
    """Clients that keep theta between rounds, as the ClientApp does on disk."""

    def __init__(self, count: int, codec: str = "fuse16", forgets: tuple[int, int] | None = None) -> None:
        self.held: dict[int, np.ndarray] = {}
        self.got_head: list[tuple[int, int]] = []
        self.codec, self.forgets = codec, forgets
        self.grid = MemoryGrid({client: self.node(client) for client in range(count)})

    def node(self, client: int) -> Node:
        def handle(message: Message) -> list[Message]:
            if message.metadata.message_type == HELLO:
                return [answer(message, pack_hello(Hello(client, DIGEST, D)))]
            server_round, slot = (int(message.content["round"][key]) for key in ("round", "slot"))
            if (client, server_round) == self.forgets:
                self.held.pop(client)  # its disk is gone
            chain, head = unpack_global(message.content.array_records["arrays"])
            if head is not None:
                self.got_head.append((client, server_round))
            try:
                theta = apply_chain(chain, self.held.get(client), D, SEED, SEGMENTS)
            except WrongModel:
                return [answer(message, Error(2, "WrongModel"))]
            self.held[client] = theta
            shared = SharedState(theta, SEED, server_round, slot, SEGMENTS)
            payload = get_codec(self.codec).encode(local_step(theta, seed=client), shared)
            return [answer(message, pack_update(payload, METRICS, theta_digest(theta)))]

        return handle


def test_clients_are_sent_what_they_lack_and_one_that_lost_it_gets_everything() -> None:
    keepers = Keepers(3, forgets=(1, 2))
    reports = run_rounds(strategy(), keepers.grid, rounds=4)
    assert [report.tally.failures for report in reports] == [{}, {1: "client-error"}, {}, {}]
    # The head goes to those who hold nothing: to all in round 1, and once more to the one that lost it.
    assert set(keepers.got_head) == {*((client, 1) for client in range(3)), (1, 3)}
    sizes = [report.downlink_bytes for report in reports]
    assert sizes[2][1] > sizes[2][0] == sizes[2][2]
    assert len(set(sizes[3].values())) == 1
    assert all(np.array_equal(theta, reports[2].theta) for theta in keepers.held.values())


@pytest.mark.parametrize("participation", [1.0, 0.5])
def test_relay_gives_every_client_the_same_theta_as_exact_in_fewer_bytes(participation: float) -> None:
    reports = {}
    for form in ("exact", "relay"):
        keepers = Keepers(6, codec="relative")
        reports[form] = run_rounds(strategy(downlink=form, participation=participation), keepers.grid, rounds=5)
        thetas = [theta_digest(report.theta) for report in reports[form]]
        assert {theta_digest(theta) for theta in keepers.held.values()} <= {theta_digest(strategy().theta), *thetas}
    exact, relay = reports["exact"], reports["relay"]
    assert all(np.array_equal(ours.theta, theirs.theta) for ours, theirs in zip(exact, relay, strict=True))
    assert not any(report.tally.failures for report in relay)
    for ours, theirs in list(zip(exact, relay, strict=True))[1:]:
        assert sum(theirs.downlink_bytes.values()) < sum(ours.downlink_bytes.values())


def test_the_head_is_averaged_by_examples_in_client_order() -> None:
    deltamask = strategy()
    tally = deltamask.fit_head(MemoryGrid({7: node(2), 8: node(0), 9: node(1)}), timeout=1.0)
    # Weights 1, 2, 3 for clients 0, 1, 2, whose heads are filled with their numbers.
    np.testing.assert_allclose(deltamask.head.weight, (0 * 1 + 1 * 2 + 2 * 3) / 6, rtol=1e-6)
    assert tally.payload_bytes == dict.fromkeys(range(3), 4 * CLASSES * (FEATURES + 1))
