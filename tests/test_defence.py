"""Rounds with clients that lie, through the Strategy: what counts, who is named, and what the others are sent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Message

from common.aggregation import Rule
from common.aggregation.beta import BetaRule
from common.aggregation.flips import FlipsRule
from common.aggregation.screening import Limits
from common.codecs import SharedState, get_codec
from common.downlink import apply_chain
from common.messages import HELLO, Hello, pack_hello, pack_update
from common.theta import Version, probabilities
from deltamask_server.limits import ClientLimits
from deltamask_server.methods.deltamask.defence import Defence
from deltamask_server.methods.deltamask.gain_control import GainControl
from tests.federation import DIGEST, METRICS, SEED, SEGMENTS, D, Played, run_rounds, strategy
from tests.grid import MemoryGrid, Node, answer

CLIENTS = 6
Lie = Callable[[np.ndarray, np.ndarray], np.ndarray]
LIES: dict[str, Lie] = {
    "opposite": lambda before, after: np.clip(2 * before - after, 0.001, 0.999),
    "everything dropped": lambda before, after: np.full_like(before, 0.01),
}


class Sites:
    """Clients that keep theta, have learnt much the same, and of which the first may lie."""

    def __init__(self, lie: Lie | None = None, codec: str = "exact", examples: dict[int, int] | None = None) -> None:
        self.lie, self.codec, self.examples = lie, codec, examples or {}
        self.held: dict[int, Version] = {}
        self.grid = MemoryGrid({client: self.node(client) for client in range(CLIENTS)})

    def learnt(self, theta: np.ndarray, client: int) -> np.ndarray:
        p, rng = probabilities(theta), np.random.default_rng(1)
        common = 0.02 * rng.standard_t(2, D)
        own = 0.01 * np.random.default_rng((2, client)).standard_normal(D)
        return np.clip(p + common + own, 0.001, 0.999).astype(np.float32)

    def node(self, client: int) -> Node:
        def handle(message: Message) -> list[Message]:
            if message.metadata.message_type == HELLO:
                return [answer(message, pack_hello(Hello(client, DIGEST, D)))]
            server_round, slot = (int(message.content["round"][key]) for key in ("round", "slot"))
            chain = message.content.array_records["parts"]["theta"].data
            version = self.held[client] = apply_chain(chain, self.held.get(client), D, SEED, SEGMENTS)
            after = self.learnt(version.theta, client)
            if client == 0 and self.lie:
                after = self.lie(probabilities(version.theta), after).astype(np.float32)
            shared = SharedState(version.theta, SEED, server_round, slot, SEGMENTS)
            payload = get_codec(self.codec).encode(after, shared)
            metrics = METRICS | {"examples": self.examples.get(client, 10)}
            return [answer(message, pack_update({"payload": payload}, metrics, version.digest))]

        return handle


def play(sites: Sites, rounds: int = 2, limits: Limits | None = None, **options: object) -> list[Played]:
    return run_rounds(strategy(defence=Defence(limits or Limits()), **options), sites.grid, rounds)


@pytest.mark.parametrize("rule", [FlipsRule(), FlipsRule(weighs=False), BetaRule()], ids=["flips", "equal", "beta"])
def test_honest_rounds_are_what_they_are_without_a_defence(rule: Rule[object]) -> None:
    plain = run_rounds(strategy(rule=rule), Sites().grid, 2)
    defended = play(Sites(), rule=rule)
    assert [one.tally.limited for one in defended] == [{}, {}]
    assert all(np.array_equal(a.theta, b.theta) for a, b in zip(plain, defended, strict=True))


@pytest.mark.parametrize("form", ["exact", "relay", "quantised"])
@pytest.mark.parametrize("rule", [FlipsRule(), FlipsRule(weighs=False), BetaRule()], ids=["flips", "equal", "beta"])
@pytest.mark.parametrize("lie", LIES)
def test_a_liar_is_named_and_everybody_gets_the_same_theta(lie: str, rule: Rule[object], form: str) -> None:
    sites = Sites(LIES[lie])
    played = play(sites, 2, rule=rule, downlink=form)
    assert [set(one.tally.limited) for one in played] == [{0}] * 2
    assert all(len(one.tally.payload_bytes) == CLIENTS for one in played), "its reply was well formed"
    # What the clients hold is what the server had after the round before.
    assert all(np.array_equal(held.theta, played[0].theta) for held in sites.held.values())


def test_a_liar_that_is_left_out_moves_nothing() -> None:
    with_liar = play(Sites(LIES["opposite"]), 1)
    assert with_liar[0].tally.limited[0].factor == 0.0
    assert "against the others" in with_liar[0].tally.limited[0].reason

    sites = Sites()
    del sites.grid.nodes[0]
    alone = play(sites, 1)
    # Slots differ, and with them the uniforms: the mean change is the same up to sampling.
    change = [one[0].theta.astype(int) - strategy().theta.astype(int) for one in (with_liar, alone)]
    assert np.corrcoef(change)[0, 1] > 0.5


def test_a_client_that_moves_everything_moves_little() -> None:
    limited = play(Sites(LIES["everything dropped"]), 1, Limits(agreement=0))
    free = play(Sites(LIES["everything dropped"]), 1, Limits(0, 0, 0))
    start = strategy().theta.astype(int)
    moved = [np.abs(one[0].theta.astype(int) - start).mean() for one in (limited, free)]
    assert 0 < limited[0].tally.limited[0].factor < 1
    assert moved[0] < moved[1] / 2


def test_more_examples_than_others_have_count_no_further() -> None:
    claimed = play(Sites(examples={3: 10**9}), 1)
    assert claimed[0].tally.limited[3].reason == "1,000,000,000 examples, 100000000.0 times the median"
    fair = play(Sites(examples={3: 40}), 1)
    assert fair[0].tally.limited == {}
    assert np.array_equal(claimed[0].theta, fair[0].theta)


def test_examples_count_no_more_than_the_head_round_lets_them() -> None:
    limits = ClientLimits(4.0)
    assert limits.counted(40, 10)[0] == 40
    assert limits.counted(10**9, 10)[0] == 40
    assert limits.counted(10**9, 0)[0] == 10**9, "nothing is known yet"
    assert ClientLimits().counted(10**9, 10)[0] == 10**9


def test_a_liar_has_no_say_in_how_precise_everybody_is() -> None:
    def spent(lie: Lie | None, defence: Defence) -> float:
        gains = GainControl()
        run_rounds(strategy(defence=defence, gains=gains), Sites(lie).grid, 1)
        return gains.total

    def noise(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        return np.clip(np.random.default_rng(5).random(D), 0.001, 0.999)

    honest = spent(None, Defence(Limits()))
    assert spent(noise, Defence(Limits())) == pytest.approx(honest, rel=0.05)
    assert spent(noise, Defence()) > 1.5 * honest
