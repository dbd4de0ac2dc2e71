"""Laws of every aggregation rule, which server and clients rely on."""

from __future__ import annotations

import io
import itertools
import json
from typing import Any

import numpy as np
import pytest

from common.aggregation import RULES, Rule, fold_payload, rule_of
from common.aggregation.beta import BetaRule, empty_posterior
from common.codecs import SharedState, get_codec
from common.config.run import RunConfig
from common.downlink import Relayed, apply_chain, join_chain, pack_relay
from common.errors import PayloadError, WrongFormat
from common.saved import Saved
from common.theta import Version, quantise
from tests.conftest import local_step

D, SEED, SEGMENTS, SLOTS = 3_000, 4, (2_000, 1_000), (0, 2, 5)
THETA = quantise(np.random.default_rng(0).uniform(0.05, 0.95, D))


@pytest.fixture(params=RULES)
def rule(request: pytest.FixtureRequest) -> Rule[Any]:
    """As a run has it whose rounds ask every second client: what a rule remembers, it remembers here."""
    return RULES[request.param].from_config(RunConfig(aggregation=request.param, participation=0.5))


def observed(rule: Rule[Any], client: int) -> tuple[np.ndarray, int]:
    """What one client has sent, and its examples."""
    rng = np.random.default_rng(100 + client)
    found = rng.random(D) < 0.7 if rule.observes == "mask" else rng.integers(-1, 2, D).astype(np.int8)
    return found, 3 * client + 1


def folded(rule: Rule[Any], clients: tuple[int, ...], previous: Any = None, server_round: int = 1) -> Any:
    state = rule.start(THETA, previous, server_round)
    for client in clients:
        state = rule.fold(state, *observed(rule, client))
    return state


def as_bytes(rule: Rule[Any], state: Any) -> tuple[Any, ...]:
    """A state as it is kept, to be compared bit for bit."""
    saved = rule.state(state)
    arrays = {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in saved.arrays.items()}
    return arrays, json.dumps(saved.values, sort_keys=True)


def kept(saved: Saved) -> Saved:
    """Written and read again."""
    file = io.BytesIO()
    np.savez(file, **saved.arrays)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return Saved({name: arrays[name] for name in arrays}, json.loads(json.dumps(saved.values)))


def test_numbers_name_rules() -> None:
    assert len({rule.number for rule in RULES.values()}) == len(RULES)
    assert all(rule_of(rule.number) is rule and 0 < rule.number < 256 for rule in RULES.values())
    assert all(rule.name == name for name, rule in RULES.items())
    with pytest.raises(WrongFormat):
        rule_of(255)


def test_any_order_gives_the_same_state_and_theta(rule: Rule[Any]) -> None:
    orders = list(itertools.permutations(range(4)))
    first = folded(rule, orders[0])
    theta, _ = rule.finish(first)
    assert theta.dtype == np.uint16
    assert theta.shape == (D,)
    assert theta.all(), "a probability of 0 has no score"
    assert not np.array_equal(theta, THETA)
    for order in orders[1:]:
        state = folded(rule, order)
        assert as_bytes(rule, state) == as_bytes(rule, first)
        assert np.array_equal(rule.finish(state)[0], theta)


def test_examples_count_where_the_rule_weighs_and_nowhere_else(rule: Rule[Any]) -> None:
    start = rule.start(THETA, None, 1)
    (one, _), (other, _) = observed(rule, 0), observed(rule, 1)
    thetas = [rule.finish(rule.fold(rule.fold(start, one, weight), other, 1))[0] for weight in (1, 1_000)]
    assert np.array_equal(*thetas) != rule.weighs


def test_a_state_is_a_value(rule: Rule[Any]) -> None:
    state = folded(rule, (0, 1))
    before = as_bytes(rule, state)
    found, weight = observed(rule, 2)
    again = found.copy()
    rule.fold(state, found, weight)
    rule.finish(state)
    assert as_bytes(rule, state) == before
    assert np.array_equal(found, again)


def test_a_kept_state_goes_on_as_the_one_in_memory(rule: Rule[Any]) -> None:
    for state in (folded(rule, (0, 1)), rule.finish(folded(rule, (0, 1)))[1]):
        loaded = rule.load_state(kept(rule.state(state)))
        assert as_bytes(rule, loaded) == as_bytes(rule, state)
    # What a round leaves, and the next one starts from: the second, which remembers, and the third, which may not.
    _, left = rule.finish(folded(rule, (0, 1)))
    loaded = rule.load_state(kept(rule.state(left)))
    for server_round in (2, 3):
        ours, theirs = (folded(rule, (2, 3), state, server_round) for state in (left, loaded))
        assert as_bytes(rule, ours) == as_bytes(rule, theirs)
        assert np.array_equal(rule.finish(ours)[0], rule.finish(theirs)[0])


def test_without_a_round_before_every_round_starts_alike(rule: Rule[Any]) -> None:
    starts = [as_bytes(rule, rule.start(THETA, None, server_round)) for server_round in (1, 2, 7)]
    assert starts[0] == starts[1] == starts[2]


def test_the_beta_rule_starts_from_its_prior_and_goes_back_to_it() -> None:
    beta = BetaRule(prior=2.5, participation=0.5)
    prior = as_bytes(beta, empty_posterior(D, 2.5))
    _, left = beta.finish(folded(beta, (0, 1)))
    assert as_bytes(beta, beta.start(THETA, None, 2)) == prior
    assert as_bytes(beta, beta.start(THETA, left, 3)) == prior
    assert as_bytes(beta, beta.start(THETA, left, 2)) == as_bytes(beta, left)


def test_whoever_holds_theta_alone_folds_payloads_as_the_server_does(rule: Rule[Any]) -> None:
    """`tests/test_downlink.py` goes through the codecs; here it is the rules: all that is relayed is their start."""
    held = version = Version(np.full(D, quantise(0.9)))
    previous, codec = None, get_codec("exact")
    for server_round in (1, 2, 3):
        start = state = rule.start(version.theta, previous, server_round)
        relayed = {}
        for slot in SLOTS:
            shared = SharedState.of(version, SEED, server_round, slot, SEGMENTS)
            payload = codec.encode(local_step(version.theta, seed=10 * server_round + slot), shared)
            relayed[slot] = Relayed(payload, examples=7 * slot + 1)
            state = fold_payload(rule, state, payload, shared, relayed[slot].examples)
        theta, previous = rule.finish(state)
        first = rule.pack_start(start, version.theta)
        assert first is not None
        again, theirs = type(rule).read_start(first, version.theta, len(SLOTS))
        assert again.pack_start(theirs, version.theta) == first
        base, version = version, Version(theta)
        step = pack_relay(version, base, rule, first, server_round, relayed)
        assert step is not None
        held = apply_chain(join_chain([step]), held, D, SEED, SEGMENTS)
        assert np.array_equal(held.theta, version.theta)


def test_a_start_that_is_none_is_refused(rule: Rule[Any]) -> None:
    data = rule.pack_start(rule.start(THETA, None, 1), THETA)
    assert data is not None
    for damaged in (data[:-1], data + b"\0"):
        with pytest.raises(PayloadError):
            type(rule).read_start(damaged, THETA, len(SLOTS))
