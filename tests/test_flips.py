"""The aggregation rule `flips`: what it does on average, by how much it varies, and that it stands still."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest

from common.aggregation import RULES, fold_payload
from common.aggregation.base import Change
from common.aggregation.flips import FlipsRule, power_of_two
from common.codecs import CODECS, SharedState, get_codec
from common.config.run import RunConfig
from common.downlink import Relayed, apply_chain, join_chain, pack_change, pack_relay
from common.errors import ConfigError, PayloadError
from common.selection import largest_changes
from common.theta import ONE, Version, probabilities, quantise
from common.wire import read_header
from tests.conftest import local_step

D, SEED, SEGMENTS = 40_000, 3, (30_000, 10_000)
THETA = quantise(np.random.default_rng(0).choice([0.2, 0.5, 0.8, 0.95, 0.97], D))
RULE = FlipsRule()
DELTAS = [name for name, kind in CODECS.items() if not kind.samples]


def next_theta(rule: FlipsRule, theta: np.ndarray, payloads: dict[int, tuple[bytes, int]], server_round: int = 1):
    state = rule.start(theta, None, server_round)
    for slot, (payload, examples) in payloads.items():
        state = fold_payload(rule, state, payload, SharedState(theta, SEED, server_round, slot, SEGMENTS), examples)
    return rule.finish(state)[0], rule.change(state)


@pytest.mark.parametrize("codec", CODECS)
def test_a_thousand_rounds_of_nothing_learnt_leave_theta_exactly_where_it_was(codec: str) -> None:
    # Masks counted anew in each round wander off: tests/test_theta_and_posterior.py.
    theta = THETA[:500]
    encode = get_codec(codec).encode
    for server_round in range(1, 1001):
        state = RULE.start(theta, None, server_round)
        for slot in range(3):
            shared = SharedState(theta, SEED, server_round, slot)
            state = fold_payload(RULE, state, encode(probabilities(theta), shared), shared, 7 + slot)
        theta, _ = RULE.finish(state)
    assert np.array_equal(theta, THETA[:500])


@pytest.mark.parametrize("codec", [name for name in DELTAS if name != "bloom"])
def test_the_mean_change_is_what_clients_learnt_and_its_variance_that_of_flips(codec: str) -> None:
    local = local_step(THETA, seed=1, size=0.3)
    learnt = (local - THETA / ONE).astype(np.float64)
    changes = []
    for slot in range(400):
        shared = SharedState(THETA, SEED, 1, slot, SEGMENTS)
        changes.append(get_codec(codec).change(get_codec(codec).encode(local, shared), shared) / ONE)
    mean, variance = np.mean(changes, axis=0), np.var(changes, axis=0)
    # Over all positions of a kind chance is small: theta's bias would show at once.
    for value in np.unique(THETA):
        where = value == THETA
        error = (mean - learnt)[where].mean()
        assert abs(error) < 5 * np.sqrt(variance[where].mean() / 400 / where.sum()) + 2e-5
    exact = np.abs(learnt) - learnt**2
    assert variance.mean() == pytest.approx(exact.mean(), rel=0.05 if codec != "fuse8" else 0.6)
    masks = (THETA / ONE) * (1 - THETA / ONE)
    assert variance.mean() < masks.mean() / 2


@pytest.mark.parametrize("gain", [2.0, 1.0, 0.5, 0.25])
def test_a_sample_counts_by_the_gain_and_its_mean_stays_right(gain: float) -> None:
    local = local_step(THETA, seed=1, size=0.15)
    learnt = local - THETA / ONE
    codec = get_codec("relative", gain=gain)
    changes = []
    for slot in range(300):
        shared = SharedState(THETA, SEED, 1, slot, SEGMENTS)
        payload = codec.encode(local, shared)
        changes.append(codec.change(payload, shared) / ONE)
    slope = float(np.mean(changes, axis=0) @ learnt / (learnt @ learnt))
    assert slope == pytest.approx(1, abs=0.12)
    masks = (THETA / ONE) * (1 - THETA / ONE)
    assert np.var(changes, axis=0).mean() == pytest.approx(gain**2 * masks.mean(), rel=0.1)
    assert len(set(changes[0][THETA[0] == THETA])) == 2


def test_half_the_gain_costs_four_times_the_bits_of_a_sample() -> None:
    local = local_step(THETA, seed=1, size=0.15)
    shared = SharedState(THETA, SEED, 1, 0, SEGMENTS)
    whole, half = (len(get_codec("relative", gain=gain).encode(local, shared)) - 38 for gain in (1.0, 0.5))
    assert half == pytest.approx(4 * whole, rel=0.25)


@pytest.mark.parametrize("codec", ["exact", "fuse16"])
def test_twice_the_gain_has_half_the_flips_and_their_mean_stays_right(codec: str) -> None:
    local = local_step(THETA, seed=1, size=0.3)
    learnt = (local - THETA / ONE).astype(np.float64)
    found = {}
    for gain in (1.0, 2.0):
        coder = get_codec(codec, gain=gain)
        changes, flips = [], 0
        for slot in range(100):
            shared = SharedState(THETA, SEED, 1, slot, SEGMENTS)
            payload = coder.encode(local, shared)
            changes.append(coder.change(payload, shared) / ONE)
            flips += read_header(payload)[0].n
        mean = np.mean(changes, axis=0)
        assert float(mean @ learnt / (learnt @ learnt)) == pytest.approx(1, abs=0.05)
        found[gain] = flips, float(np.mean((mean - learnt) ** 2))
    assert found[1.0][0] == pytest.approx(2 * found[2.0][0], rel=0.02)
    # |change| - change^2 for each flip, times the gain
    assert 1.9 * found[1.0][1] < found[2.0][1] < 3 * found[1.0][1]


def test_small_changes_stay_where_they_were() -> None:
    local = local_step(THETA, seed=1, size=0.3)
    shared = SharedState(THETA, SEED, 1, 0, SEGMENTS)
    for gain in (1.0, 4.0):
        sent = get_codec("exact", gain=gain, left_out=0.2).encode(local, shared)
        kept = largest_changes(local, THETA, 0.2)
        assert sent == get_codec("exact", gain=gain).encode(kept, shared)
        assert 0 < read_header(sent)[0].n < read_header(get_codec("exact", gain=gain).encode(local, shared))[0].n


def test_a_gain_is_no_mask_and_has_limits() -> None:
    shared = SharedState(THETA, SEED, 1, 0, SEGMENTS)
    for name in ("relative", "exact", "fuse8"):
        payload = get_codec(name, gain=2.0).encode(local_step(THETA, seed=1), shared)
        with pytest.raises(PayloadError, match="count"):
            get_codec(name).decode(payload, shared)
        for gain in (0.0, -1.0, 1 / 300, 70.0):
            with pytest.raises(ValueError, match="gain"):
                get_codec(name, gain=gain)


def test_clients_count_by_their_examples_or_once() -> None:
    payloads = {}
    for slot, examples in ((0, 300), (1, 100)):  # 256 and 128: shares of two thirds, and one
        local = np.full(D, 0.99 if slot else 0.01, np.float32)
        shared = SharedState(THETA, SEED, 1, slot, SEGMENTS)
        payloads[slot] = get_codec("exact").encode(local, shared), examples
    by_examples, change = next_theta(RULE, THETA, payloads)
    once, _ = next_theta(replace(RULE, weighs=False), THETA, payloads)
    assert set(np.unique(np.abs(change.values))) <= {0, round(ONE / 3), round(2 * ONE / 3)}
    assert by_examples.mean() < once.mean()
    assert by_examples.min() >= RULE.clip
    assert by_examples.max() <= ONE - RULE.clip


@pytest.mark.parametrize(
    ("examples", "weight"),
    [(1, 1), (2, 2), (3, 4), (5, 4), (6, 8), (11, 8), (12, 16), (181, 128), (182, 256), (10**9, 2**24)],
)
def test_examples_count_as_the_nearest_power_of_two_up_to_a_limit(examples: int, weight: int) -> None:
    assert power_of_two(min(examples, 2**24)) == weight
    assert RULE.fold(RULE.start(THETA, None, 1), np.zeros(D, np.int32), examples).total == weight


def test_theta_is_clipped_only_where_it_changes() -> None:
    theta = np.array([1, 65_535, 40_000], np.uint16)
    state = RULE.fold(RULE.start(theta, None, 1), np.array([0, 0, ONE]), 1)
    assert RULE.finish(state)[0].tolist() == [1, 65_535, ONE - RULE.clip]


@pytest.mark.parametrize("codec", ["exact", "fuse8", "fuse16", "bitmap"])
@pytest.mark.parametrize("weighs", [True, False])
def test_the_change_downlink_gives_the_same_theta_and_costs_less_than_the_uplinks(codec: str, weighs: bool) -> None:
    rule = replace(RULE, weighs=weighs)
    version = held = Version(np.full(D, quantise(0.95)))
    for server_round in (1, 2, 3):
        payloads = {}
        for slot in (0, 1, 4, 7):
            shared = SharedState(version.theta, SEED, server_round, slot, SEGMENTS)
            local = local_step(version.theta, seed=10 * server_round + slot, size=0.05)
            payloads[slot] = get_codec(codec).encode(local, shared), 50 * slot + 11
        theta, change = next_theta(rule, version.theta, payloads, server_round)
        after = Version(theta)
        sizes = {slot: len(payload) for slot, (payload, _) in payloads.items()}
        step = pack_change(after, version, change, SEED, server_round, sizes, SEGMENTS)
        assert step is not None
        relayed = {slot: Relayed(*sent) for slot, sent in payloads.items()}
        relay = pack_relay(after, version, rule, rule.pack_start(None, theta), server_round, relayed)
        for data in (step, relay):
            assert np.array_equal(apply_chain(join_chain([data]), held, D, SEED, SEGMENTS).theta, theta)
        assert len(step) < 1.1 * sum(len(payload) for payload, _ in payloads.values()) + 200
        version = held = after


@pytest.mark.parametrize("codec", DELTAS)
@pytest.mark.parametrize("theta", [0.05, 0.95])
def test_a_position_that_all_clients_flip_travels_too(codec: str, theta: float) -> None:
    before, payloads = Version(np.full(D, quantise(theta))), {}
    for slot in (0, 1):
        local = local_step(before.theta, seed=slot, size=3.0, moved=0.5)
        shared = SharedState(before.theta, SEED, 1, slot, SEGMENTS)
        payloads[slot] = get_codec(codec).encode(local, shared), 10
    after, change = next_theta(RULE, before.theta, payloads)
    assert np.abs(change.values).max() >= ONE - 300
    sizes = {slot: len(payload) for slot, (payload, _) in payloads.items()}
    step = pack_change(Version(after), before, change, SEED, 1, sizes, SEGMENTS)
    assert step is not None
    assert np.array_equal(apply_chain(join_chain([step]), before, D, SEED, SEGMENTS).theta, after)


def test_a_round_that_changes_nothing_or_everything() -> None:
    before = Version(THETA)
    shared = SharedState(THETA, SEED, 1, 0, SEGMENTS)
    nothing = get_codec("exact").encode(probabilities(THETA), shared), 5
    theta, change = next_theta(RULE, THETA, {0: nothing})
    step = pack_change(Version(theta), before, change, SEED, 1, {0: 99}, SEGMENTS)
    assert step is not None
    assert len(step) < 120
    noise = Change(np.random.default_rng(1).integers(-9, 9, D).astype(np.int32), RULE.clip)
    assert pack_change(Version(theta), before, noise, SEED, 1, {0: 99}, SEGMENTS) is None


def test_damaged_changes_are_refused() -> None:
    shared = SharedState(THETA, SEED, 1, 2, SEGMENTS)
    payload = get_codec("exact").encode(local_step(THETA, seed=1), shared), 5
    theta, change = next_theta(RULE, THETA, {2: payload})
    step = pack_change(Version(theta), Version(THETA), change, SEED, 1, {2: 99}, SEGMENTS)
    assert step is not None
    chain = join_chain([step])
    rng = np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(step)
        at = int(rng.integers(28, len(step) - 4))
        damaged[at] ^= 1 << int(rng.integers(8))
        body = bytes(damaged[:-4])
        body += zlib.crc32(body).to_bytes(4, "little")
        try:  # some bits mean nothing, as those that fill deflated data up
            found = apply_chain(join_chain([body]), Version(THETA), D, SEED, SEGMENTS).theta
        except PayloadError:
            continue
        assert np.array_equal(found, theta)
    for size in range(0, len(chain), 97):
        with pytest.raises(PayloadError):
            apply_chain(chain[:size], Version(THETA), D, SEED, SEGMENTS)


def test_what_biases_the_mean_is_refused() -> None:
    with pytest.raises(ConfigError, match="biases their mean"):
        RunConfig(kappa=0.8, kappa_final=0.4)
    assert RunConfig(aggregation="beta", kappa=0.8, kappa_final=0.4)
    assert set(RULES) == {"flips", "beta"}
