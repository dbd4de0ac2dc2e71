"""A federation in memory: the Strategy, a Grid without a network, and clients that behave or do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Error, Message, RecordDict

from common.codecs import SharedState, get_codec
from common.downlink import apply_chain
from common.messages import HEAD, HELLO, TRAIN, Hello, pack_hello, pack_update
from common.models.heads import Head
from common.models.heads.linear_probe import LinearProbe
from deltamask_server.closing import Closing
from deltamask_server.enrolment import Enrolment
from deltamask_server.methods.deltamask.strategy import DeltaMask
from deltamask_server.tally import Tally
from tests.conftest import local_step
from tests.grid import MemoryGrid, Node, answer

SEGMENTS, CLASSES, FEATURES, SEED = (30_000, 20_000), 3, 4, 9
D, DIGEST = sum(SEGMENTS), b"12345678"
METRICS = {"examples": 10, "loss": 0.5, "accuracy": 0.8, "seconds": 1.0, "broken": 0}


Change = Callable[[RecordDict, Message], list[RecordDict | Error]]


def node(client: int, change: Change | None = None, kind: str = TRAIN) -> Node:
    """An honest client, or one whose reply to messages of a kind ``change`` replaces."""

    def handle(message: Message) -> list[Message]:
        if message.metadata.message_type == HELLO:
            content = pack_hello(Hello(client, DIGEST, D))
        elif message.metadata.message_type == HEAD:
            head = Head(np.full((CLASSES, FEATURES), client, np.float32), np.zeros(CLASSES, np.float32))
            content = pack_update({"statistics": head.to_bytes()}, METRICS | {"examples": client + 1})
        else:
            content = honest_update(message, client)
        replies = change(content, message) if change and message.metadata.message_type == kind else [content]
        return [answer(message, reply) for reply in replies]

    return handle


def received_theta(message: Message) -> np.ndarray:
    """What a client that holds nothing reads."""
    parts = message.content.array_records["parts"]
    assert "head" in parts
    return apply_chain(parts["theta"].data, None, D, SEED, SEGMENTS).theta


def honest_update(message: Message, sender: int, **wrong: int) -> RecordDict:
    theta = received_theta(message)
    shared = SharedState(
        theta,
        wrong.get("seed", SEED),
        wrong.get("round", int(message.content["round"]["round"])),
        wrong.get("slot", int(message.content["round"]["slot"])),
    )
    return pack_update({"payload": get_codec("fuse8").encode(local_step(theta, seed=sender), shared)}, METRICS)


def strategy(
    quorum: int = 2, wait: float = 0.2, participation: float = 1.0, closing: Closing | None = None, **options: Any
) -> DeltaMask:
    enrolment = Enrolment(DIGEST, D, min_clients=quorum, wait_seconds=wait, say=lambda line: None)
    return DeltaMask(
        enrolment,
        segments=SEGMENTS,
        classes=CLASSES,
        features=FEATURES,
        seed=SEED,
        closing=closing or Closing(quorum, participation),
        **({"head_kind": LinearProbe()} | options),
    )


@dataclass(frozen=True)
class Played:
    """One round, and theta after it."""

    tally: Tally
    downlink_bytes: dict[int, int]
    validation: Tally | None
    theta: np.ndarray


def run_rounds(deltamask: DeltaMask, grid: MemoryGrid, rounds: int = 1, timeout: float = 0.3) -> list[Played]:
    played: list[Played] = []
    deltamask.start(
        grid,
        deltamask.arrays(),
        deltamask.server_round + rounds,
        timeout,
        on_round=lambda report: played.append(
            Played(report.tally, report.downlink_bytes, report.validation, deltamask.theta)
        ),
    )
    return played
