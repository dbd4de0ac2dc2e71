"""The attacker sends a payload again that was honest once: its own of an older round, or another client's.

The header names round, client, theta and d, and the checksum covers them; a reply counts once, by the message that it
answers. The run's seed is not in the header: runs are told apart by theta, and by Flower, which delivers a reply to its
own run only.
"""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from common.codecs import SharedState, available_codecs, codec_of
from common.errors import PayloadError, WrongFormat, WrongModel, WrongRound, WrongSlot
from common.theta import quantise
from deltamask_server.exchange import exchange
from tests.attacks.targets import every_codec, target
from tests.conftest import local_step
from tests.federation import METRICS, Change, honest_update, node, run_rounds, strategy
from tests.grid import MemoryGrid


@every_codec
def test_each_field_of_the_header_that_names_something_else(name: str) -> None:
    attack = target(name)
    shared = attack.shared
    theta, seed, layers = shared.theta, shared.seed, shared.segments
    other_theta = theta.copy()
    other_theta[-1] -= 1
    cases: list[tuple[SharedState, type[PayloadError]]] = [
        (SharedState(theta, seed, shared.round + 1, shared.slot, layers), WrongRound),
        (SharedState(theta, seed, shared.round - 1, shared.slot, layers), WrongRound),
        (SharedState(theta, seed, shared.round, shared.slot + 1, layers), WrongSlot),
        (SharedState(theta, seed, shared.round, 2**32 - 1, layers), WrongSlot),
        (SharedState(other_theta, seed, shared.round, shared.slot, layers), WrongModel),
        (SharedState(theta[:-1], seed, shared.round, shared.slot), WrongModel),
        (SharedState(np.append(theta, theta[-1:]), seed, shared.round, shared.slot), WrongModel),
    ]
    for receiver, error in cases:
        with pytest.raises(error):
            codec_of(attack.payload).decode(attack.payload, receiver)


@every_codec
def test_the_number_of_another_codec(name: str) -> None:
    attack = target(name)
    for number in range(256):
        payload = attack.payload[:4] + bytes([number]) + attack.payload[5:]
        if number == attack.codec.number:
            continue
        with pytest.raises(PayloadError):  # there is no such codec, or the checksum covers the number
            codec_of(payload).decode(payload, attack.shared)
        if 1 <= number <= len(available_codecs()):
            with pytest.raises(WrongFormat):
                codec_of(payload).decode(attack.payload, attack.shared)


@every_codec
def test_a_payload_of_a_run_with_another_seed(name: str) -> None:
    """After round 1 the theta of another run differs, and the header says so. In round 1 theta is a constant in every
    run: there the codecs that rest on the seed's uniforms notice, and the others give a mask as good as any.
    """
    d = 20_000
    theta = np.full(d, quantise(0.95))
    runs = [SharedState(theta, seed, 1, 2) for seed in (1, 2)]
    codec = target(name).codec
    payload = codec.encode(local_step(theta, seed=5), runs[0])
    if name in ("fuse8", "fuse16", "fuse32", "exact"):
        with pytest.raises(PayloadError):
            codec.decode(payload, runs[1])
    else:
        mask = codec.decode(payload, runs[1])
        honest = codec.decode(payload, runs[0])
        assert abs(mask.mean() - honest.mean()) < 0.03


def replayed(**wrong: int) -> Change:
    def change(content: RecordDict, message: Message) -> list[RecordDict | Error]:
        return [honest_update(message, 2, **wrong)]

    return change


@pytest.mark.parametrize(
    ("reason", "wrong"),
    [("wrong-round", {"round": 3}), ("wrong-slot", {"slot": 7}), ("wrong-slot", {"slot": 9})],
)
def test_the_strategy_drops_a_payload_of_another_round_or_client(reason: str, wrong: dict[str, int]) -> None:
    honest, attacked = strategy(), strategy()
    run_rounds(honest, MemoryGrid({0: node(0), 1: node(1), 2: node(2, lambda *_: [Error(2, "absent")])}))
    (report,) = run_rounds(attacked, MemoryGrid({0: node(0), 1: node(1), 2: node(2, replayed(**wrong))}))
    assert report.tally.failures == {2: reason}
    assert np.array_equal(attacked.theta, honest.theta), "the replay left a trace"


def test_the_same_payload_in_every_round_counts_in_the_first_only() -> None:
    first: list[RecordDict] = []

    def again(content: RecordDict, message: Message) -> list[RecordDict | Error]:
        first.append(content)
        return [first[0]]

    reports = run_rounds(strategy(), MemoryGrid({0: node(0), 1: node(1), 2: node(2, again)}), rounds=3)
    assert [report.tally.failures for report in reports] == [{}, {2: "wrong-round"}, {2: "wrong-round"}]


def test_a_second_reply_of_one_client_is_dropped() -> None:
    # Flower's exchange yields one reply a message; the Strategy itself must not rely on that.
    deltamask, grid = strategy(), MemoryGrid({client: node(client) for client in range(3)})
    messages = list(deltamask.configure_train(1, deltamask.arrays(), ConfigRecord(), grid))
    replies = list(exchange(grid, messages, 1.0))
    deltamask.aggregate_train(1, [*replies, replies[0], *replies])
    assert dict(deltamask.tally.dropped) == {"duplicate": 4}
    assert deltamask.tally.failures == {}
    assert len(deltamask.tally.payload_bytes) == 3
    once = strategy()
    run_rounds(once, MemoryGrid({client: node(client) for client in range(3)}))
    assert np.array_equal(deltamask.theta, once.theta)


def test_a_good_reply_after_a_bad_one_counts_once() -> None:
    def twice(content: RecordDict, message: Message) -> list[RecordDict | Error]:
        return [content, RecordDict()]  # the grid delivers the last one first

    deltamask, grid = strategy(), MemoryGrid({0: node(0), 1: node(1, twice)})
    messages = list(deltamask.configure_train(1, deltamask.arrays(), ConfigRecord(), grid))
    ids = list(grid.push_messages(messages))
    deltamask.aggregate_train(1, list(grid.pull_messages(ids)))
    assert set(deltamask.tally.payload_bytes) == {0, 1}
    assert dict(deltamask.tally.dropped) == {"wrong-format": 1}
    assert deltamask.tally.failures == {}


def test_a_reply_to_an_unknown_message_is_dropped() -> None:
    deltamask, grid = strategy(), MemoryGrid({client: node(client) for client in range(2)})
    old = list(exchange(grid, list(deltamask.configure_train(1, deltamask.arrays(), ConfigRecord(), grid)), 1.0))
    messages = list(deltamask.configure_train(1, deltamask.arrays(), ConfigRecord(), grid))
    deltamask.aggregate_train(1, [*exchange(grid, messages, 1.0), old[0]])
    assert dict(deltamask.tally.dropped) == {"bad-payload": 1}
    assert METRICS["loss"] == deltamask.tally.mean("loss")
