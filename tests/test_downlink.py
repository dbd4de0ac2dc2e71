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
from common.codecs.shared_masks import SharedMasks
from common.downlink import Relayed, apply_chain, join_chain, pack_exact, pack_float32, pack_quantised, pack_relay
from common.downlink.relay import unpack_relay
from common.entropy import decode_symbols, encode_symbols
from common.errors import PayloadError, WrongModel
from common.models.heads import Head
from common.theta import Version, quantise, theta_digest
from common.uniforms import stream_key
from deltamask_client.methods.deltamask.store import Held, ThetaStore
from deltamask_server.downlink import Downlink
from tests.conftest import local_step

SEED, D, SEGMENTS, CLIENTS = 5, 60_000, (40_000, 20_000), tuple(range(10))
EMPTY, RULE = empty_posterior(D), BetaRule()


def uplinks(
    theta: np.ndarray, server_round: int, codec: str = "fuse8", clients=CLIENTS, **options: float
) -> dict[int, bytes]:
    """What the clients of a round send, by slot."""
    return {
        client: get_codec(codec, **options).encode(
            local_step(theta, seed=100 * server_round + client),
            SharedState(theta, SEED, server_round, client, SEGMENTS),
        )
        for client in clients
    }


def folded(
    theta: np.ndarray, server_round: int, payloads: dict[int, bytes], start: BetaPosterior = EMPTY
) -> BetaPosterior:
    posterior = start
    for client, payload in payloads.items():
        shared = SharedState(theta, SEED, server_round, client, SEGMENTS)
        posterior = fold(posterior, codec_of(payload).decode(payload, shared))
    return posterior


def next_theta(theta: np.ndarray, server_round: int, codec: str = "fuse8") -> np.ndarray:
    return mode(folded(theta, server_round, uplinks(theta, server_round, codec)))


@pytest.fixture(scope="module")
def history() -> list[np.ndarray]:
    """Theta before round 1, and after rounds 1 to 3."""
    thetas = [np.full(D, quantise(0.95))]
    for server_round in (1, 2, 3):
        thetas.append(next_theta(thetas[-1], server_round))
    return thetas


def exact(history: list[np.ndarray], server_round: int) -> bytes:
    after, before = Version(history[server_round]), Version(history[server_round - 1])
    step = pack_exact(after, before, SEED, server_round, CLIENTS)
    assert step is not None
    return step


def relay(
    base: np.ndarray,
    theta: np.ndarray,
    server_round: int,
    payloads: dict[int, bytes],
    start: BetaPosterior | None = None,
) -> bytes:
    step = relay_or_none(base, theta, server_round, payloads, start or EMPTY)
    assert step is not None
    return step


def relay_or_none(
    base: np.ndarray, theta: np.ndarray, server_round: int, payloads: dict[int, bytes], start: BetaPosterior
) -> bytes | None:
    relayed = {slot: Relayed(payload, 1) for slot, payload in payloads.items()}
    return pack_relay(Version(theta), Version(base), RULE, RULE.pack_start(start, base), server_round, relayed)


def receive(steps: list[bytes], held: np.ndarray | None = None) -> np.ndarray:
    return apply_chain(join_chain(steps), None if held is None else Version(held), D, SEED, SEGMENTS).theta


def test_every_form_is_lossless(history: list[np.ndarray]) -> None:
    for theta in history:
        assert np.array_equal(receive([pack_float32(Version(theta))]), theta)
        assert np.array_equal(receive([pack_quantised(Version(theta), SEGMENTS)]), theta)
    for server_round in (1, 2, 3):
        assert np.array_equal(receive([exact(history, server_round)], history[server_round - 1]), history[server_round])
    everything = np.random.default_rng(0).integers(1, 65536, D, dtype=np.uint16)  # too many values for a palette
    assert np.array_equal(receive([pack_quantised(Version(everything), SEGMENTS)]), everything)
    assert pack_exact(Version(everything), Version(history[0]), SEED, 1, CLIENTS) is None


def test_masks_counted_while_folding_give_the_same_bytes(history: list[np.ndarray]) -> None:
    drawn = SharedMasks(history[1])
    for client in reversed(CLIENTS):
        drawn.add(stream_key(SEED, 2, client))
    assert pack_exact(Version(history[2]), Version(history[1]), SEED, 2, CLIENTS, drawn) == exact(history, 2)
    for base, server_round, slots in ((history[0], 2, CLIENTS), (history[1], 1, CLIENTS), (history[1], 2, CLIENTS[1:])):
        with pytest.raises(ValueError, match="another theta, or of other slots"):
            pack_exact(Version(history[2]), Version(base), SEED, server_round, slots, drawn)


def test_sizes_from_the_second_round_on(history: list[np.ndarray]) -> None:
    for server_round in (2, 3):
        assert 8 * len(exact(history, server_round)) / D < 0.7
        assert 8 * len(pack_quantised(Version(history[server_round]), SEGMENTS)) / D < 2.2
    after_relative = next_theta(history[1], 2, "relative")
    step = pack_exact(Version(after_relative), Version(history[1]), SEED, 2, CLIENTS)
    assert step is not None
    assert 8 * len(step) / D < 1.4


@pytest.mark.parametrize("codec", ["fuse8", "exact", "relative", "bitmap"])
def test_relayed_payloads_give_the_servers_theta(history: list[np.ndarray], codec: str) -> None:
    theta, start, chain = history[0], EMPTY, []
    for server_round in (1, 2, 3):  # the posterior is reset before rounds 1 and 3, as with participation 0.5
        start = EMPTY if server_round % 2 else start
        payloads = uplinks(theta, server_round, codec, clients=(0, 3, 4, 9))
        after = folded(theta, server_round, payloads, start)
        chain.append(relay(theta, mode(after), server_round, payloads, start))
        theta, start = mode(after), after
    assert np.array_equal(receive(chain, history[0]), theta)


def test_relayed_payloads_are_all_that_is_sent(history: list[np.ndarray]) -> None:
    payloads = uplinks(history[1], 2, "relative", target_bpp=0.007)
    step = relay(history[1], mode(folded(history[1], 2, payloads)), 2, payloads)
    assert len(step) <= sum(len(payload) + 8 for payload in payloads.values()) + 60
    d = 2_211_840  # ViT-Tiny's last five blocks
    assert 8 * (10 * (0.007 * d / 8 + 8) + 60) / d < 0.08


def test_a_relay_that_a_client_could_not_follow_is_not_sent(history: list[np.ndarray]) -> None:
    payloads = uplinks(history[0], 1)
    many = BetaPosterior(np.zeros(D, np.uint16), 200, 1.0)  # 0 and 1 of 200 ones are both clipped to 0.01
    assert relay_or_none(mode(many), history[1], 1, payloads, many) is None
    other = BetaPosterior(np.zeros(D, np.uint16), 7, 1.0)
    assert relay_or_none(history[0], history[1], 1, payloads, other) is None
    downlink = Downlink(SEGMENTS, Version(history[0]))
    downlink.publish(
        Version(history[1]), lambda after, before: relay_or_none(before.theta, after.theta, 1, payloads, other)
    )
    assert downlink.message(theta_digest(history[0])) == downlink.message(None)
    body = relay(history[0], history[1], 1, payloads)[24:-4]
    with pytest.raises(PayloadError, match="not the mode"):
        unpack_relay(body[:9] + b"\x07\x00" + body[11:], Version(history[0]), SEED, SEGMENTS)


def test_a_client_starts_a_chain_at_the_version_it_holds(history: list[np.ndarray]) -> None:
    chain = [exact(history, server_round) for server_round in (1, 2, 3)]
    for held in history:
        assert np.array_equal(receive(chain, held), history[3])
    stranger = np.full(D, 77, np.uint16)
    for held in (None, stranger):
        with pytest.raises(WrongModel, match="does not start from"):
            receive(chain, held)
    with_start = [pack_quantised(Version(history[0]), SEGMENTS), *chain]
    for held in (None, stranger, history[2]):
        assert np.array_equal(receive(with_start, held), history[3])


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


def test_the_server_sends_the_shorter_of_steps_and_whole(history: list[np.ndarray]) -> None:
    downlink = Downlink(SEGMENTS, Version(history[0]))
    for server_round in (1, 2, 3):
        downlink.publish(Version(history[server_round]), lambda *_, r=server_round: exact(history, r))
    for version, theta in enumerate(history):
        message = downlink.message(theta_digest(theta))
        assert np.array_equal(apply_chain(message, Version(theta), D, SEED, SEGMENTS).theta, history[3])
        steps = join_chain([exact(history, server_round) for server_round in range(version + 1, 4)])
        if version < 3:
            assert len(message) == min(len(steps), len(downlink.message(None)))
        else:
            assert len(message) == 32, "who holds the newest version needs its digest only"
            with pytest.raises(WrongModel):
                apply_chain(message, Version(history[2]), D, SEED, SEGMENTS)
    assert downlink.message(b"stranger") == downlink.message(None)


@pytest.mark.parametrize(("form", "bits"), [("float32", 32), ("quantised", 1.5)])
def test_other_forms_ignore_what_clients_hold(history: list[np.ndarray], form: str, bits: int) -> None:
    downlink = Downlink(SEGMENTS, Version(history[1]), whole=form)
    downlink.publish(Version(history[2]))
    message = downlink.message(theta_digest(history[1]))
    assert message == downlink.message(None)
    assert np.array_equal(apply_chain(message, None, D, SEED, SEGMENTS).theta, history[2])
    assert 8 * len(message) / D == pytest.approx(bits, rel=0.2)


def test_a_client_keeps_theta_and_head_of_its_run(tmp_path: Path, history: list[np.ndarray]) -> None:
    head = Head(np.ones((3, 4), np.float32), np.zeros(3, np.float32))
    store = ThetaStore(tmp_path, client=3, run_id=8)
    assert store.load() is None
    assert store.save(Held(Version(history[1]), head))
    held = ThetaStore(tmp_path, client=3, run_id=8).load()
    assert held is not None
    assert np.array_equal(held.version.theta, history[1])
    assert np.array_equal(held.head.weight, head.weight)
    assert ThetaStore(tmp_path, client=3, run_id=9).load() is None, "another run has another head"
    assert ThetaStore(tmp_path, client=4, run_id=8).load() is None
    other = ThetaStore(tmp_path, client=3, run_id=9)
    assert other.save(Held(Version(history[2]), head))
    held = store.load()
    assert held is not None
    assert np.array_equal(held.version.theta, history[1]), "runs side by side must not disturb each other"
    (path,) = (tmp_path / "theta").glob("run-8-*")
    os.utime(path, (0, 0))
    assert other.save(Held(Version(history[2]), head))
    assert store.load() is None, "what a run of last week left is removed"
    assert store.save(Held(Version(history[1]), head))
    path.write_bytes(b"damaged")
    assert store.load() is None
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_full_disk_costs_bytes_only(tmp_path: Path, history: list[np.ndarray]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    head = Head(np.ones((3, 4), np.float32), np.zeros(3, np.float32))
    store = ThetaStore(blocked, client=3, run_id=8)
    assert not store.save(Held(Version(history[1]), head))
    assert store.load() is None
