"""Theta to the clients: entropy code, the three forms, chains, what the server sends to whom, what a client keeps."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.aggregation.beta import BetaPosterior, BetaRule, empty_posterior, fold, mode
from common.codecs import SharedState, codec_of, get_codec
from common.downlink import Relayed, apply_chain, join_chain, pack_exact, pack_float32, pack_quantised, pack_relay
from common.downlink.relay import unpack_relay
from common.entropy import decode_symbols, encode_symbols
from common.errors import PayloadError, WrongModel
from common.models import Head
from common.theta import Version, quantise
from deltamask_client.methods.deltamask.store import Held, ThetaStore
from deltamask_server.downlink import Downlink
from tests.conftest import local_step

SEED, D, SEGMENTS, CLIENTS = 5, 60_000, (40_000, 20_000), tuple(range(10))
EMPTY, RULE = empty_posterior(D), BetaRule()


def uplinks(
    version: Version, server_round: int, codec: str = "fuse8", clients=CLIENTS, **options: float
) -> dict[int, Relayed]:
    """What the clients of a round send, by slot."""
    payloads = {
        client: get_codec(codec, **options).encode(
            local_step(version.theta, seed=100 * server_round + client),
            SharedState.of(version, SEED, server_round, client, SEGMENTS),
        )
        for client in clients
    }
    return {client: Relayed(payload, examples=10) for client, payload in payloads.items()}


def folded(
    version: Version, server_round: int, payloads: dict[int, Relayed], start: BetaPosterior = EMPTY
) -> BetaPosterior:
    posterior = start
    for client, (payload, _) in payloads.items():
        shared = SharedState.of(version, SEED, server_round, client, SEGMENTS)
        posterior = fold(posterior, codec_of(payload).decode(payload, shared))
    return posterior


def after(version: Version, server_round: int, codec: str = "fuse8") -> Version:
    """The next version."""
    return Version(mode(folded(version, server_round, uplinks(version, server_round, codec))))


@pytest.fixture(scope="module")
def history() -> list[Version]:
    """Theta before round 1, and after rounds 1 to 3."""
    versions = [Version(np.full(D, quantise(0.95)))]
    for server_round in (1, 2, 3):
        versions.append(after(versions[-1], server_round))
    return versions


def exact(history: list[Version], server_round: int) -> bytes:
    step = pack_exact(history[server_round], history[server_round - 1], SEED, server_round, CLIENTS)
    assert step is not None
    return step


def relay(
    base: Version,
    version: Version,
    server_round: int,
    payloads: dict[int, Relayed],
    start: BetaPosterior = EMPTY,
) -> bytes:
    step = pack_relay(version, base, RULE, RULE.pack_start(start, base.theta), server_round, payloads)
    assert step is not None
    return step


def receive(steps: list[bytes], held: Version | None = None) -> np.ndarray:
    return apply_chain(join_chain(steps), held, D, SEED, SEGMENTS).theta


def test_every_form_is_lossless(history: list[Version]) -> None:
    for version in history:
        assert np.array_equal(receive([pack_float32(version)]), version.theta)
        assert np.array_equal(receive([pack_quantised(version, SEGMENTS)]), version.theta)
    for server_round in (1, 2, 3):
        found = receive([exact(history, server_round)], history[server_round - 1])
        assert np.array_equal(found, history[server_round].theta)
    # Too many values for a palette.
    everything = Version(np.random.default_rng(0).integers(1, 65536, D, dtype=np.uint16))
    assert np.array_equal(receive([pack_quantised(everything, SEGMENTS)]), everything.theta)
    assert pack_exact(everything, history[0], SEED, 1, CLIENTS) is None


def test_sizes_from_the_second_round_on(history: list[Version]) -> None:
    for server_round in (2, 3):
        assert 8 * len(exact(history, server_round)) / D < 0.7
        assert 8 * len(pack_quantised(history[server_round], SEGMENTS)) / D < 2.2
    step = pack_exact(after(history[1], 2, "relative"), history[1], SEED, 2, CLIENTS)
    assert step is not None
    assert 8 * len(step) / D < 1.4


@pytest.mark.parametrize("codec", ["fuse8", "exact", "relative", "bitmap"])
def test_relayed_payloads_give_the_servers_theta(history: list[Version], codec: str) -> None:
    version, start, chain = history[0], EMPTY, []
    for server_round in (1, 2, 3):  # the posterior is reset before rounds 1 and 3, as with participation 0.5
        start = EMPTY if server_round % 2 else start
        payloads = uplinks(version, server_round, codec, clients=(0, 3, 4, 9))
        posterior = folded(version, server_round, payloads, start)
        base, version = version, Version(mode(posterior))
        chain.append(relay(base, version, server_round, payloads, start))
        start = posterior
    assert np.array_equal(receive(chain, history[0]), version.theta)


def test_relayed_payloads_are_all_that_is_sent(history: list[Version]) -> None:
    payloads = uplinks(history[1], 2, "relative", target_bpp=0.007)
    step = relay(history[1], Version(mode(folded(history[1], 2, payloads))), 2, payloads)
    assert len(step) <= sum(len(payload) + 8 for payload, _ in payloads.values()) + 60
    d = 2_211_840  # ViT-Tiny's last five blocks
    assert 8 * (10 * (0.007 * d / 8 + 8) + 60) / d < 0.08


def test_a_relay_that_a_client_could_not_follow_is_not_sent(history: list[Version]) -> None:
    payloads = uplinks(history[0], 1)
    many = BetaPosterior(np.zeros(D, np.uint16), 200, 1.0)  # 0 and 1 of 200 ones are both clipped to 0.01
    assert RULE.pack_start(many, mode(many)) is None
    other = BetaPosterior(np.zeros(D, np.uint16), 7, 1.0)
    start = RULE.pack_start(other, history[0].theta)
    assert start is None
    assert pack_relay(history[1], history[0], RULE, start, 1, payloads) is None
    downlink = Downlink(SEGMENTS, history[0])
    downlink.publish(history[1], lambda version, before: pack_relay(version, before, RULE, start, 1, payloads))
    assert downlink.message(history[0].digest) == downlink.message(None)
    body = relay(history[0], history[1], 1, payloads)[24:-4]
    with pytest.raises(PayloadError, match="not the mode"):
        unpack_relay(body[:9] + b"\x07\x00" + body[11:], history[0], SEED, SEGMENTS)


def test_a_client_starts_a_chain_at_the_version_it_holds(history: list[Version]) -> None:
    chain = [exact(history, server_round) for server_round in (1, 2, 3)]
    for held in history:
        assert np.array_equal(receive(chain, held), history[3].theta)
    stranger = Version(np.full(D, 77, np.uint16))
    for held in (None, stranger):
        with pytest.raises(WrongModel, match="does not start from"):
            receive(chain, held)
    with_start = [pack_quantised(history[0], SEGMENTS), *chain]
    for held in (None, stranger, history[2]):
        assert np.array_equal(receive(with_start, held), history[3].theta)


@given(st.integers(1, 5000), st.integers(1, 40), st.integers(1, 30), st.integers(0, 2**32))
def test_symbols_come_back_at_little_more_than_their_entropy(d: int, alphabet: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    contexts = rng.integers(0, classes, d, dtype=np.uint16)
    weights = rng.dirichlet(np.full(alphabet, 0.3), classes).cumsum(axis=1)
    symbols = (weights[contexts] < rng.random((d, 1))).sum(axis=1).clip(0, alphabet - 1).astype(np.uint16)
    data = encode_symbols(symbols, contexts, alphabet, classes)
    assert np.array_equal(decode_symbols(data, contexts, alphabet, classes), symbols)
    counts = np.zeros((classes, alphabet))
    np.add.at(counts, (contexts, symbols), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    entropy = -(counts * np.log2(np.where(share > 0, share, 1))).sum() / 8
    assert len(data) <= 1.02 * entropy + 2 * classes * alphabet + 40


def test_the_server_sends_the_shorter_of_steps_and_whole(history: list[Version]) -> None:
    downlink = Downlink(SEGMENTS, history[0])
    for server_round in (1, 2, 3):
        downlink.publish(history[server_round], lambda version, before: exact(history, history.index(version)))
    for number, version in enumerate(history):
        message = downlink.message(version.digest)
        assert np.array_equal(apply_chain(message, version, D, SEED, SEGMENTS).theta, history[3].theta)
        steps = join_chain([exact(history, server_round) for server_round in range(number + 1, 4)])
        if number < 3:
            assert len(message) == min(len(steps), len(downlink.message(None)))
        else:
            assert len(message) == 32, "who holds the newest version needs its digest only"
            with pytest.raises(WrongModel):
                apply_chain(message, history[2], D, SEED, SEGMENTS)
    assert downlink.message(b"stranger") == downlink.message(None)


@pytest.mark.parametrize(("form", "bits"), [("float32", 32), ("quantised", 1.5)])
def test_other_forms_ignore_what_clients_hold(history: list[Version], form: str, bits: int) -> None:
    downlink = Downlink(SEGMENTS, history[1], whole=form)
    downlink.publish(history[2])
    message = downlink.message(history[1].digest)
    assert message == downlink.message(None)
    assert np.array_equal(apply_chain(message, None, D, SEED, SEGMENTS).theta, history[2].theta)
    assert 8 * len(message) / D == pytest.approx(bits, rel=0.2)


def test_a_client_keeps_theta_and_head_of_its_run(tmp_path: Path, history: list[Version]) -> None:
    head = Head(np.ones((3, 4), np.float32), np.zeros(3, np.float32))
    store = ThetaStore(tmp_path, client=3, run_id=8)
    assert store.load() is None
    assert store.save(Held(history[1], head))
    held = ThetaStore(tmp_path, client=3, run_id=8).load()
    assert held is not None
    assert np.array_equal(held.version.theta, history[1].theta)
    assert np.array_equal(held.head.weight, head.weight)
    assert ThetaStore(tmp_path, client=3, run_id=9).load() is None, "another run has another head"
    assert ThetaStore(tmp_path, client=4, run_id=8).load() is None
    other = ThetaStore(tmp_path, client=3, run_id=9)
    assert other.save(Held(history[2], head))
    held = store.load()
    assert held is not None
    assert np.array_equal(held.version.theta, history[1].theta), "runs side by side must not disturb each other"
    (path,) = (tmp_path / "theta").glob("run-8-*")
    os.utime(path, (0, 0))
    assert other.save(Held(history[2], head))
    assert store.load() is None, "what a run of last week left is removed"
    assert store.save(Held(history[1], head))
    path.write_bytes(b"damaged")
    assert store.load() is None
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_full_disk_costs_bytes_only(tmp_path: Path, history: list[Version]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    head = Head(np.ones((3, 4), np.float32), np.zeros(3, np.float32))
    store = ThetaStore(blocked, client=3, run_id=8)
    assert not store.save(Held(history[1], head))
    assert store.load() is None
