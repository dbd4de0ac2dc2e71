"""Who takes part: nodes that do not answer, that answer late, that are refused, and that take another's id."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest
from flwr.app import Error, Message

from common.errors import RoundError
from common.messages import HELLO, Hello, pack_hello
from deltamask_server.enrolment import Enrolment
from tests.federation import DIGEST, D, node, run_rounds, strategy
from tests.grid import MemoryGrid, Node, answer

WAIT = 0.4


class LateGrid(MemoryGrid):
    """Replies of some nodes come only after so many seconds."""

    def __init__(self, nodes: dict[int, Node], late: dict[int, float], kind: str = HELLO) -> None:
        super().__init__(nodes)
        self.late, self.kind, self.begun = late, kind, time.monotonic()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        passed = time.monotonic() - self.begun
        held = [
            reply
            for reply in self._inbox
            if reply.metadata.message_type == self.kind and self.late.get(reply.metadata.src_node_id, 0.0) > passed
        ]
        self._inbox = [reply for reply in self._inbox if reply not in held]
        ready = super().pull_messages(message_ids)
        self._inbox += held
        return ready


def enrolment(minimum: int = 2, bound: bool = False) -> tuple[Enrolment, list[str]]:
    said: list[str] = []
    return Enrolment(DIGEST, D, minimum, WAIT, said.append, bound=bound), said


def seconds_of(who: Enrolment, grid: MemoryGrid) -> tuple[float, set[int]]:
    begun = time.monotonic()
    clients = set(who.online(grid))
    return time.monotonic() - begun, clients


def test_a_mute_node_is_waited_for_once_and_asked_again_later() -> None:
    who, said = enrolment()
    grid = MemoryGrid({0: node(0), 1: node(1), 2: lambda message: []})
    first, clients = seconds_of(who, grid)
    assert clients == {0, 1}
    assert first >= WAIT
    assert said == ["node 2 does not say who it is; the rounds go on without it"]
    again, clients = seconds_of(who, grid)
    assert clients == {0, 1}
    assert again < WAIT / 2, "nobody waits for it a second time"
    grid.nodes[2] = node(2)
    time.sleep(WAIT)
    assert seconds_of(who, grid)[1] == {0, 1, 2}
    asked = [message for message in grid.sent if message.metadata.dst_node_id == 2]
    assert len(asked) == 2
    assert len(said) == 1


def test_a_late_answer_counts_when_it_comes() -> None:
    who, said = enrolment()
    grid = LateGrid({0: node(0), 1: node(1), 2: node(2)}, {2: 2 * WAIT})
    assert seconds_of(who, grid)[1] == {0, 1}
    time.sleep(WAIT)
    assert seconds_of(who, grid)[1] == {0, 1, 2}
    assert len(said) == 1


def test_whoever_answers_in_time_is_waited_for() -> None:
    who, said = enrolment()
    seconds, clients = seconds_of(who, LateGrid({0: node(0), 1: node(1), 2: node(2)}, {2: WAIT / 2}))
    assert clients == {0, 1, 2}
    assert WAIT / 2 <= seconds < WAIT
    assert said == []


def refused(message: Message) -> list[Message]:
    return [answer(message, Error(2, "DataError; see the log of this SuperNode"))]


def test_where_everybody_is_refused_nobody_is_waited_for() -> None:
    who, said = enrolment()
    begun = time.monotonic()
    with pytest.raises(RoundError, match=r"0 usable clients after 0\.\d s, min-clients = 2; refused: it answered with"):
        who.online(MemoryGrid({0: refused, 1: refused}))
    assert time.monotonic() - begun < WAIT / 2
    assert len(said) == 2


def test_while_others_may_still_come_they_are_waited_for() -> None:
    who, _ = enrolment(minimum=3)
    with pytest.raises(RoundError, match=r"0 usable clients after 0\.4 s, min-clients = 3"):
        who.online(MemoryGrid({0: refused, 1: refused}))


@pytest.mark.parametrize("code", [3, 4, 5])
def test_a_node_that_was_away_is_asked_again(code: int) -> None:
    who, said = enrolment()
    grid = MemoryGrid({0: node(0), 1: node(1), 2: lambda message: [answer(message, Error(code, "away"))]})
    assert seconds_of(who, grid)[1] == {0, 1}
    grid.nodes[2] = node(2)
    time.sleep(WAIT)
    assert seconds_of(who, grid)[1] == {0, 1, 2}
    assert said == []


def test_an_id_belongs_to_the_first_node_that_names_it_if_the_run_binds_ids() -> None:
    who, said = enrolment(bound=True)
    grid = MemoryGrid({10: node(0), 11: node(1)})
    assert who.online(grid) == {0: 10, 1: 11}
    grid.nodes[12] = node(1)  # by another key
    assert who.online(grid) == {0: 10, 1: 11}
    assert said == [
        "node 12 refused: its partition-id 1 belongs to node 11, which named it first (bind-clients)",
    ]
    del grid.nodes[11]  # it restarts, and has the same id again, by the same key
    assert who.connected(grid.nodes) == {0: 10}
    grid.nodes[11] = node(1)
    assert who.online(grid) == {0: 10, 1: 11}


def test_a_resumed_run_knows_whose_ids_are() -> None:
    grid = MemoryGrid({10: node(0), 11: node(1)})
    first = strategy()
    first._enrolment = enrolment(bound=True)[0]
    first._mail._enrolment = first._enrolment
    run_rounds(first, grid)
    second, (who, said) = strategy(), enrolment(minimum=1, bound=True)
    second._enrolment = who
    second.load_state(first.state())
    assert who.owners == {0: 10, 1: 11}
    assert who.online(MemoryGrid({10: node(0), 12: node(1)})) == {0: 10}
    assert "belongs to node 11" in said[0]


def test_without_binding_the_newest_node_stands() -> None:
    who, said = enrolment()
    grid = MemoryGrid({10: node(0), 11: node(1)})
    who.online(grid)
    grid.nodes[12] = lambda message: [answer(message, pack_hello(Hello(1, DIGEST, D)))]
    assert who.online(grid) == {0: 10, 1: 12}
    assert said == ["client 1 is now node 12, no longer 11: a restart, or two SuperNodes with one partition-id"]


def sharing(client: int, parts: int | None) -> Node:
    return lambda message: [answer(message, pack_hello(Hello(client, DIGEST, D, partitions=parts)))]


def test_clients_that_divide_the_images_otherwise_than_most_are_refused() -> None:
    who, said = enrolment()
    grid = MemoryGrid({10: sharing(0, 3), 11: sharing(1, 2), 12: sharing(2, 3), 13: sharing(3, None)})
    assert who.online(grid) == {0: 10, 2: 12, 3: 13}
    assert said == [
        "node 11 refused: client 1 has num-partitions = 2, where others have 3: parts of the run's images would "
        "overlap, and some be nobody's; start all SuperNodes without data of their own with the same number"
    ]
    grid.nodes |= {14: sharing(4, 5), 15: sharing(5, 5), 16: sharing(6, 5)}
    assert who.online(grid) == {0: 10, 2: 12, 3: 13}, "once a run has begun its number stands"
    assert len(said) == 4
    del grid.nodes[11]
    grid.nodes[17] = sharing(1, 3)
    assert who.online(grid) == {0: 10, 1: 17, 2: 12, 3: 13}


def test_where_as_many_say_one_thing_as_another_the_run_ends_and_says_so() -> None:
    who, _ = enrolment()
    begun = time.monotonic()
    with pytest.raises(RoundError) as refusal:
        who.online(MemoryGrid({10: sharing(0, 2), 11: sharing(1, 3)}))
    assert time.monotonic() - begun < WAIT / 2
    for text in ("client 0 has num-partitions = 2, where others have 3", "client 1 has num-partitions = 3, where"):
        assert text in str(refusal.value)


def test_clients_with_images_of_their_own_need_not_agree() -> None:
    who, said = enrolment()
    assert who.online(MemoryGrid({10: sharing(0, None), 11: sharing(1, 3)})) == {0: 10, 1: 11}
    assert said == []
