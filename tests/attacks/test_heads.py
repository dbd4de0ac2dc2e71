"""The attacker sends statistics or a trained head that would spoil the head of everybody: numbers that are none,
variances below zero, more examples than it reports, heads that blow up all logits.

What no client can have measured is refused before it is summed. The most extreme statistics that are possible still
leave a head that every client accepts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Error, Message, RecordDict

from common.messages import HEAD, pack_update
from common.models.heads import HEADS, FittedHead, Head, Statistics
from common.models.heads.moments import Moments, pack_moments
from tests.federation import CLASSES, FEATURES, METRICS, Change, node, run_rounds, strategy
from tests.grid import MemoryGrid, Node

EXAMPLES = 12
MATRIX = {"ridge": True, "mean": False}


def fitted(name: str) -> FittedHead:
    kind = HEADS[name]()
    assert isinstance(kind, FittedHead)
    return kind


def measured(name: str, client: int) -> bytes:
    rng = np.random.default_rng(client)
    labels = np.arange(EXAMPLES) % CLASSES
    features = torch.from_numpy((labels[:, None] + rng.standard_normal((EXAMPLES, FEATURES))).astype(np.float32))
    return fitted(name).statistics(features, torch.from_numpy(labels), CLASSES)


def member(name: str, client: int, edit: Callable[[bytes], bytes] = lambda data: data) -> Node:
    """A client that sends its statistics, edited."""

    def change(content: RecordDict, message: Message) -> list[RecordDict | Error]:
        return [pack_update({"statistics": edit(measured(name, client))}, METRICS | {"examples": EXAMPLES})]

    return node(client, change, kind=HEAD)


def put(offset: int, value: float | int) -> Callable[[bytes], bytes]:
    """Overwrite 4 bytes, counted from the end if negative: an int as uint32, else float32."""
    word = np.array([value], "<u4" if isinstance(value, int) else "<f4").tobytes()

    def edit(data: bytes) -> bytes:
        at = offset % len(data)
        return data[:at] + word + data[at + 4 :]

    return edit


MEANS = 4 * CLASSES
HOSTILE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "a mean that is NaN": ("bad-metric", put(MEANS, np.nan)),
    "an infinite mean": ("bad-metric", put(MEANS, np.inf)),
    "a mean that swamps all others": ("bad-metric", put(MEANS, 3e38)),
    "a scatter that is NaN": ("bad-metric", put(-4, np.nan)),
    "an infinite scatter": ("bad-metric", put(-4, np.inf)),
    "a scatter beyond the features": ("bad-metric", put(-4, 1e30)),
    "a negative variance": ("bad-metric", put(-4, -50.0)),
    "more examples than reported": ("bad-metric", put(0, 2**32 - 1)),
    "no examples": ("bad-metric", lambda data: bytes(len(data))),
    "cut": ("bad-metric", lambda data: data[:-4]),
    "counts alone": ("bad-metric", lambda data: data[:MEANS]),
    "less than the counts": ("bad-metric", lambda data: data[:3]),
    "longer": ("oversized", lambda data: data + bytes(4)),
    "a class less than it counts": ("bad-metric", put(0, 0)),
}


@pytest.mark.parametrize("name", MATRIX)
@pytest.mark.parametrize("attack", HOSTILE)
def test_impossible_statistics_leave_no_trace(name: str, attack: str) -> None:
    reason, edit = HOSTILE[attack]
    honest, attacked = strategy(head_kind=fitted(name)), strategy(head_kind=fitted(name))
    honest.fit_head(MemoryGrid({0: member(name, 0), 1: member(name, 1)}), timeout=0.3)
    nodes = {0: member(name, 0), 1: member(name, 1), 2: member(name, 2, edit)}
    tally = attacked.fit_head(MemoryGrid(nodes), timeout=0.3)
    assert tally.failures == {2: reason}
    assert attacked.head.to_bytes() == honest.head.to_bytes()


def test_a_scatter_matrix_that_is_none_is_refused() -> None:
    """Every variance is fine, but that of a sum of features is negative: the solver would divide by about nothing."""
    within = np.eye(FEATURES)
    within[0, 1] = within[1, 0] = -1.5
    data = pack_moments(Moments(np.full(CLASSES, EXAMPLES // CLASSES), np.zeros((CLASSES, FEATURES)), within))
    attacked = strategy(head_kind=fitted("ridge"))
    nodes = {0: member("ridge", 0), 1: member("ridge", 1), 2: member("ridge", 2, lambda _: data)}
    assert attacked.fit_head(MemoryGrid(nodes), timeout=0.3).failures == {2: "bad-metric"}


EXTREME = {
    "everything at the limit": (1e6, 1e12),
    "means at the limit without scatter": (1e6, 0.0),
    "scatter at the limit": (0.0, 1e12),
    "nothing but one point": (1e-30, 0.0),
    "smaller than any feature": (1e-30, 1e-38),
}


@pytest.mark.parametrize("name", MATRIX)
@pytest.mark.parametrize("extreme", EXTREME)
@pytest.mark.parametrize("count", [1, 2**32 - 1])
def test_the_most_extreme_statistics_leave_a_head_that_clients_accept(name: str, extreme: str, count: int) -> None:
    mean, scatter = EXTREME[extreme]
    counts = np.array([count, 0, 0])
    means = np.zeros((CLASSES, FEATURES))
    means[0] = mean
    within = scatter * (np.eye(FEATURES) if MATRIX[name] else np.array(1.0))
    data = pack_moments(Moments(counts, means, within))
    kind = fitted(name)
    kind.check(data, CLASSES, FEATURES, count)
    for replies in ([Statistics(data, count)], [Statistics(measured(name, 0), EXAMPLES), Statistics(data, count)]):
        head = kind.combine(replies, CLASSES, FEATURES)
        assert Head.from_bytes(head.to_bytes(), CLASSES, FEATURES)


# -- rounds that train the head ----------------------------------------------------------------------------------------


def sends(head: bytes | str | None, payload: bytes | None = None) -> Change:
    def change(content: RecordDict, message: Message) -> list[RecordDict | Error]:
        update = dict(content["parts"]) | ({} if head is None else {"head": head})
        update |= {} if payload is None else {"payload": payload}
        return [RecordDict({"parts": ConfigRecord(update), "metrics": content["metrics"]})]

    return change


def filled(value: float) -> bytes:
    return np.full(CLASSES * (FEATURES + 1), value, "<f4").tobytes()


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("bad-metric", sends(filled(np.nan))),
        ("bad-metric", sends(filled(-np.inf))),
        ("bad-metric", sends(filled(1e7))),
        ("bad-metric", sends(filled(1.0)[:-4])),
        ("oversized", sends(filled(1.0) * 1000)),
        ("truncated", sends(b"")),
        ("truncated", sends(None)),
        ("truncated", sends("text")),
        ("wrong-format", sends(filled(1.0), b"DM" + bytes(98))),
    ],
)
def test_of_a_reply_with_a_bad_half_nothing_counts(reason: str, change: Change) -> None:
    honest, attacked = (strategy(frozen_head_rounds=0) for _ in range(2))
    good = {0: node(0, sends(filled(0.25))), 1: node(1, sends(filled(0.75)))}
    run_rounds(honest, MemoryGrid(dict(good)))
    (report,) = run_rounds(attacked, MemoryGrid({**good, 2: node(2, change)}))
    assert report.tally.failures == {2: reason}
    assert np.array_equal(attacked.theta, honest.theta)
    assert attacked.head.to_bytes() == honest.head.to_bytes() == filled(0.5)


def test_a_head_that_nobody_asked_for_is_refused() -> None:
    deltamask = strategy()
    before = deltamask.head.to_bytes()
    (report,) = run_rounds(deltamask, MemoryGrid({0: node(0), 1: node(1), 2: node(2, sends(filled(1.0)))}))
    assert report.tally.failures == {2: "wrong-format"}
    assert deltamask.head.to_bytes() == before
