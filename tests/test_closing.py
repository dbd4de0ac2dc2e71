"""Rounds that do not wait for everybody."""

from __future__ import annotations

import time

import pytest

from common.config.run import RunConfig
from common.errors import RoundError
from common.messages import TRAIN
from deltamask_server.closing import Closing
from tests.federation import node, run_rounds, strategy
from tests.test_enrolment import LateGrid


@pytest.mark.parametrize(
    ("closing", "online", "wanted", "asked"),
    [
        (Closing(), 10, 10, 10),
        (Closing(over_sample=0.5), 10, 10, 10),  # there are no more
        (Closing(participation=0.4), 10, 4, 4),
        (Closing(participation=0.4, over_sample=0.25), 10, 4, 5),
        (Closing(participation=0.4, over_sample=0.3), 10, 4, 6),
        (Closing(quorum=5, participation=0.1, over_sample=0.2), 10, 5, 6),
        (Closing(quorum=5, participation=0.1, over_sample=10), 10, 5, 10),
        (Closing(participation=0.1), 30, 3, 3),  # 0.1 * 30 is a little above 3 in floating point
    ],
)
def test_how_many_are_asked_and_wanted(closing: Closing, online: int, wanted: int, asked: int) -> None:
    assert (closing.wanted(online), closing.asked(online)) == (wanted, asked)


def test_from_the_config() -> None:
    run = RunConfig(min_clients=3, participation=0.5, over_sample=0.2, round_deadline_seconds=60.0)
    assert Closing.from_config(run.rounds) == Closing(3, 0.5, 0.2, 60.0)


def test_a_round_closes_with_the_first_replies_that_it_wants() -> None:
    grid = LateGrid({client: node(client) for client in range(4)}, {2: 60.0}, TRAIN)
    deltamask = strategy(closing=Closing(participation=0.75, over_sample=0.3))
    begun = time.monotonic()
    (report,) = run_rounds(deltamask, grid, timeout=30.0)
    assert time.monotonic() - begun < 10
    assert set(report.tally.payload_bytes) == {0, 1, 3}
    assert report.tally.failures == {2: "late"}
    assert report.tally.dropped == {"late": 1}


def test_after_the_deadline_a_quorum_is_enough_and_before_it_is_not() -> None:
    grid = LateGrid({client: node(client) for client in range(4)}, {2: 60.0, 3: 0.3}, TRAIN)
    (report,) = run_rounds(strategy(closing=Closing(quorum=2, deadline=0.6)), grid, timeout=30.0)
    assert set(report.tally.payload_bytes) == {0, 1, 3}
    assert report.tally.failures == {2: "late"}


def test_a_deadline_without_a_quorum_waits_on() -> None:
    grid = LateGrid({client: node(client) for client in range(3)}, {1: 60.0, 2: 0.8}, TRAIN)
    (report,) = run_rounds(strategy(closing=Closing(quorum=2, deadline=0.1)), grid, timeout=30.0)
    assert set(report.tally.payload_bytes) == {0, 2}
    grid = LateGrid({client: node(client) for client in range(3)}, {1: 60.0, 2: 60.0}, TRAIN)
    with pytest.raises(RoundError, match="1 of 3 replies usable in round 1, quorum is 2; failed: 2 no-reply"):
        run_rounds(strategy(closing=Closing(quorum=2, deadline=0.1)), grid, timeout=0.4)


def test_whoever_was_late_takes_part_in_the_next_round() -> None:
    grid = LateGrid({client: node(client) for client in range(3)}, {2: 0.5}, TRAIN)
    deltamask = strategy(closing=Closing(quorum=2, deadline=0.1))
    (first,) = run_rounds(deltamask, grid, timeout=30.0)
    assert first.tally.failures == {2: "late"}
    time.sleep(0.5)
    (second,) = run_rounds(deltamask, grid, timeout=30.0)
    assert set(second.tally.payload_bytes) == {0, 1, 2}
    assert second.tally.dropped == {}, "what came too late for the first round is not taken for an answer to this one"
