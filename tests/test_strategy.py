"""The Strategy among honest, silent and restarted clients; tests/attacks has the hostile ones."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

from common.aggregation import Rule
from common.aggregation.beta import BetaRule, empty_posterior, fold, mode
from common.aggregation.flips import FlipsRule
from common.codecs import SharedState, get_codec
from common.downlink import apply_chain, read_step
from common.downlink.version import CHANGE, EXACT
from common.errors import RoundError, WrongModel
from common.messages import HELLO, Hello, pack_hello, pack_update
from common.theta import Version, quantise, theta_digest
from tests.conftest import local_step
from tests.federation import CLASSES, DIGEST, FEATURES, METRICS, SEED, SEGMENTS, D, node, run_rounds, strategy
from tests.grid import MemoryGrid, Node, answer


def test_a_round_equals_folding_the_clients_masks_by_hand() -> None:
    deltamask = strategy(rule=BetaRule())
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


def test_a_round_adds_the_mean_of_the_clients_changes_by_hand() -> None:
    deltamask = strategy()
    theta, changes = deltamask.theta.copy(), []
    grid = MemoryGrid({100 + client: node(client) for client in range(4)})
    run_rounds(deltamask, grid)
    slots = {m.metadata.dst_node_id - 100: int(m.content["round"]["slot"]) for m in grid.sent if "round" in m.content}
    for client, slot in slots.items():
        shared, codec = SharedState(theta, SEED, 1, slot), get_codec("fuse8")
        changes.append(codec.change(codec.encode(local_step(theta, seed=client), shared), shared))
    after = np.clip(theta + np.rint(np.mean(changes, axis=0)), 0.01 * 65_536, 0.99 * 65_536)
    assert np.abs(deltamask.theta - after).max() <= 0.5
    assert (deltamask.theta != theta).any()


def test_theta_does_not_depend_on_node_ids_or_on_arrival() -> None:
    thetas = []
    for ids in ([5, 6, 7], [70, 3, 41]):
        deltamask = strategy()
        run_rounds(deltamask, MemoryGrid({number: node(client) for client, number in enumerate(ids)}), rounds=3)
        thetas.append(deltamask.theta)
    assert np.array_equal(thetas[0], thetas[1])


def test_participation_samples_by_seed_and_round_and_keeps_the_posterior_between_resets() -> None:
    rule = BetaRule(participation=0.5)
    deltamask = strategy(participation=0.5, rule=rule)
    reports = run_rounds(deltamask, MemoryGrid({client: node(client) for client in range(8)}), rounds=4)
    asked = [report.tally.asked for report in reports]
    assert all(len(clients) == 4 for clients in asked)
    assert len(set(asked)) > 1
    again = run_rounds(strategy(participation=0.5, rule=rule), MemoryGrid({c: node(c) for c in range(8)}), rounds=4)
    assert [report.tally.asked for report in again] == asked
    # Four masks after rounds 1 and 3, eight after rounds 2 and 4: theta lies on quarters, then on eighths.
    quarters = {int(quantise(np.clip(k / 4, 0.01, 0.99))) for k in range(5)}
    assert set(reports[0].theta.tolist()) <= quarters
    assert not set(reports[1].theta.tolist()) <= quarters
    assert set(reports[2].theta.tolist()) <= quarters


def test_a_round_without_quorum_ends_the_run_and_leaves_theta_alone() -> None:
    deltamask = strategy(quorum=3)
    before = deltamask.theta.copy()
    with pytest.raises(RoundError, match=r"2 of 3 replies usable in round 1, quorum is 3; failed: 1 no-reply"):
        run_rounds(deltamask, MemoryGrid({0: node(0), 1: node(1), 2: node(2, lambda content, message: [])}))
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

    def __init__(
        self,
        count: int,
        codec: str = "fuse16",
        forgets: tuple[int, int] | None = None,
        frozen_head_rounds: float = math.inf,
    ) -> None:
        self.held: dict[int, Version] = {}
        self.got_head: list[tuple[int, int]] = []
        self.codec, self.forgets, self.frozen_head_rounds = codec, forgets, frozen_head_rounds
        self.grid = MemoryGrid({client: self.node(client) for client in range(count)})

    def node(self, client: int) -> Node:
        def handle(message: Message) -> list[Message]:
            if message.metadata.message_type == HELLO:
                return [answer(message, pack_hello(Hello(client, DIGEST, D)))]
            server_round, slot = (int(message.content["round"][key]) for key in ("round", "slot"))
            if (client, server_round) == self.forgets:
                self.held.pop(client)  # its disk is gone
            parts = message.content.array_records["parts"]
            if "head" in parts:
                self.got_head.append((client, server_round))
            try:
                version = apply_chain(parts["theta"].data, self.held.get(client), D, SEED, SEGMENTS)
            except WrongModel:
                return [answer(message, Error(2, "WrongModel"))]
            self.held[client], theta = version, version.theta
            shared = SharedState(theta, SEED, server_round, slot, SEGMENTS)
            payload = get_codec(self.codec).encode(local_step(theta, seed=client), shared)
            trained = np.full(CLASSES * (FEATURES + 1), client + server_round, "<f4").tobytes()
            head = {"head": trained} if server_round > self.frozen_head_rounds else {}
            return [answer(message, pack_update({"payload": payload, **head}, METRICS, version.digest))]

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
    assert all(np.array_equal(held.theta, reports[2].theta) for held in keepers.held.values())


@pytest.mark.parametrize(("rule", "form"), [(FlipsRule(), CHANGE), (BetaRule(), EXACT)], ids=["flips", "beta"])
def test_the_exact_downlink_has_the_form_that_suits_the_rule(rule: Rule[Any], form: int) -> None:
    keepers, forms = Keepers(3, codec="exact"), []
    run_rounds(strategy(rule=rule), keepers.grid, rounds=3)
    for message in keepers.grid.sent[-3:]:
        chain = message.content.array_records["parts"]["theta"].data
        forms.append(read_step(chain[4:], D).form)
    assert forms == [form] * 3


@pytest.mark.parametrize("rule", [FlipsRule(), BetaRule()], ids=["flips", "beta"])
@pytest.mark.parametrize("participation", [1.0, 0.5])
def test_relay_gives_every_client_the_same_theta_as_exact_in_fewer_bytes(participation: float, rule: Rule[Any]) -> None:
    if isinstance(rule, BetaRule):
        rule = replace(rule, participation=participation)
    reports = {}
    for form in ("exact", "relay"):
        keepers = Keepers(6, codec="relative")
        reports[form] = run_rounds(
            strategy(downlink=form, participation=participation, rule=rule), keepers.grid, rounds=5
        )
        thetas = [theta_digest(report.theta) for report in reports[form]]
        assert {held.digest for held in keepers.held.values()} <= {theta_digest(strategy().theta), *thetas}
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


def test_a_head_that_is_trained_in_the_last_rounds_travels_and_is_counted_both_ways() -> None:
    size = 4 * CLASSES * (FEATURES + 1)
    keepers = Keepers(2, frozen_head_rounds=2)
    deltamask = strategy(frozen_head_rounds=2)
    reports = run_rounds(deltamask, keepers.grid, rounds=4)
    assert not any(report.tally.failures for report in reports)
    # Before: nobody has one. After round 3, the first that trained it, it is new to everybody.
    assert set(keepers.got_head) == {(client, sent) for client in range(2) for sent in (1, 4)}
    np.testing.assert_array_equal(deltamask.head.weight, 4.5)  # the mean of 0 + 4 and 1 + 4
    frozen = run_rounds(strategy(), Keepers(2).grid, rounds=4)
    for number, (ours, theirs) in enumerate(zip(reports, frozen, strict=True), start=1):
        assert np.array_equal(ours.theta, theirs.theta)
        for client in range(2):
            up = ours.tally.payload_bytes[client] - theirs.tally.payload_bytes[client]
            assert up == (size if number > 2 else 0)
            assert ours.downlink_bytes[client] - theirs.downlink_bytes[client] == (size if number == 4 else 0)
