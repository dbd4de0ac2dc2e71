"""What one client may do to the head: statistics that are possible by themselves, and wrong beside the others'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.models.heads import HEADS, FittedHead, Statistics
from common.models.heads.linear_probe import LinearProbe
from common.models.heads.moments import Moments, measure_moments, pack_moments
from deltamask_server.limits import ClientLimits

CLASSES, FEATURES, CLIENTS = 6, 12, 10
SHAPE = (CLASSES, FEATURES)
LIMITS = ClientLimits(4.0, True)
KINDS = ["ridge", "mean", "linear-probe"]
Classes = Callable[[int], list[int]]
SPLITS: dict[str, Classes] = {
    "every class": lambda client: list(range(CLASSES)),
    "three classes each": lambda client: [(client + k) % CLASSES for k in range(3)],
}


def kind_of(name: str) -> FittedHead:
    kind = HEADS[name]() if name != "linear-probe" else LinearProbe(epochs=40)
    assert isinstance(kind, FittedHead)
    return kind


def images(client: int, classes: list[int], count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of clients that see the same classes from a place of their own."""
    centres = 3 * np.random.default_rng(0).standard_normal((CLASSES, FEATURES)) + 5
    rng = np.random.default_rng((1, client))
    labels = rng.choice(classes, count)
    features = centres[labels] + 1.5 * rng.standard_normal((count, FEATURES)) + 0.5 * rng.standard_normal(FEATURES)
    return torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels)


def sent(
    name: str, split: str, lie: Callable[[torch.Tensor], torch.Tensor] = lambda y: y, liars: int = 0
) -> dict[int, Statistics]:
    kind, found = kind_of(name), {}
    for client in range(CLIENTS):
        x, y = images(client, SPLITS[split](client))
        found[client] = Statistics(kind.statistics(x, lie(y) if client < liars else y, CLASSES), len(y))
    return found


def accuracy(name: str, statistics: dict[int, Statistics], limits: ClientLimits) -> float:
    kind = kind_of(name)
    verdicts = limits.judge(kind, statistics, SHAPE)
    counted = [one._replace(factor=verdicts[client].factor) for client, one in statistics.items()]
    head = kind.combine([one for one in counted if one.factor], *SHAPE)
    x, y = images(99, list(range(CLASSES)), 600)
    return float((head(x).argmax(1) == y).float().mean())


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", KINDS)
def test_honest_clients_count_in_full(name: str, split: str) -> None:
    verdicts = LIMITS.judge(kind_of(name), sent(name, split), SHAPE)
    assert {verdict.factor for verdict in verdicts.values()} == {1.0}


@pytest.mark.parametrize("claim", [60, 10**9])
@pytest.mark.parametrize("lie", [lambda y: (y + 1) % CLASSES, lambda y: CLASSES - 1 - y], ids=["rolled", "reversed"])
@pytest.mark.parametrize("name", KINDS)
def test_wrong_labels_are_left_out(name: str, lie: Callable[[torch.Tensor], torch.Tensor], claim: int) -> None:
    statistics = sent(name, "every class", lie, liars=2)
    if name == "linear-probe":
        statistics |= {client: statistics[client]._replace(examples=claim) for client in (0, 1)}
    else:
        for client in (0, 1):
            x, y = images(client, SPLITS["every class"](client))
            moments = measure_moments(x, lie(y), CLASSES, name == "ridge")
            many = replace(moments, counts=moments.counts * (claim // 60), within=moments.within * (claim // 60))
            statistics[client] = Statistics(pack_moments(many), int(many.counts.sum()))
    verdicts = LIMITS.judge(kind_of(name), statistics, SHAPE)
    assert {client for client, verdict in verdicts.items() if not verdict.factor} == {0, 1}
    honest = accuracy(name, sent(name, "every class"), LIMITS)
    assert accuracy(name, statistics, LIMITS) >= honest - 0.01
    if claim > 60:
        assert accuracy(name, statistics, ClientLimits()) < honest - 0.2


@pytest.mark.parametrize("name", ["ridge", "mean"])
@pytest.mark.parametrize("features", [1e-6, 1e4])
def test_features_of_another_size_are_left_out(name: str, features: float) -> None:
    statistics, matrix = sent(name, "every class"), name == "ridge"
    x, y = images(3, SPLITS["every class"](3))
    statistics[3] = Statistics(pack_moments(measure_moments(x * features, y, CLASSES, matrix)), len(y))
    verdicts = LIMITS.judge(kind_of(name), statistics, SHAPE)
    assert {client for client, verdict in verdicts.items() if not verdict.factor} == {3}
    assert "times as large as the median client's" in verdicts[3].reason


@pytest.mark.parametrize("name", ["ridge", "mean"])
def test_a_scatter_of_another_size_is_left_out(name: str) -> None:
    statistics, matrix = sent(name, "every class"), name == "ridge"
    x, y = images(3, SPLITS["every class"](3))
    moments = measure_moments(x, y, CLASSES, matrix)
    wide = Moments(moments.counts, moments.means, moments.within * 1e9)
    statistics[3] = Statistics(pack_moments(wide), len(y))
    verdicts = LIMITS.judge(kind_of(name), statistics, SHAPE)
    assert {client for client, verdict in verdicts.items() if not verdict.factor} == {3}
    # Within a factor that honest clients may differ by, it is the scatter itself that is too large.
    wide = Moments(moments.counts, moments.means, moments.within * 4.5)
    statistics[3] = Statistics(pack_moments(wide), len(y))
    assert "a scatter" in LIMITS.judge(kind_of(name), statistics, SHAPE)[3].reason


def test_a_head_much_larger_than_others_is_left_out() -> None:
    statistics = sent("linear-probe", "every class")
    honest = accuracy("linear-probe", statistics, LIMITS)
    values = np.frombuffer(statistics[0].data, "<f4") * 1e4
    statistics[0] = Statistics(values.astype("<f4").tobytes(), 60)
    verdicts = LIMITS.judge(kind_of("linear-probe"), statistics, SHAPE)
    assert {client for client, verdict in verdicts.items() if not verdict.factor} == {0}
    assert accuracy("linear-probe", statistics, LIMITS) >= honest - 0.01


def test_at_most_a_third_disagrees() -> None:
    for name in KINDS:
        statistics = sent(name, "every class", lambda y: (y + 1) % CLASSES, liars=5)
        verdicts = LIMITS.judge(kind_of(name), statistics, SHAPE)
        assert sum(not verdict.factor for verdict in verdicts.values()) <= 3


def test_of_two_nobody_can_tell_who_is_right() -> None:
    for name in KINDS:
        statistics = sent(name, "every class", lambda y: (y + 1) % CLASSES, liars=1)
        verdicts = LIMITS.judge(kind_of(name), {client: statistics[client] for client in (0, 1)}, SHAPE)
        assert {verdict.factor for verdict in verdicts.values()} == {1.0}


def test_clients_with_one_class_or_one_image_count() -> None:
    for name in ("ridge", "mean"):  # a probe of one class does point away from the others', whoever has fitted it
        statistics, kind = sent(name, "every class"), kind_of(name)
        x, y = images(3, [2])
        statistics[3] = Statistics(kind.statistics(x, y, CLASSES), len(y))
        statistics[4] = Statistics(kind.statistics(x[:1], y[:1], CLASSES), 1)
        verdicts = LIMITS.judge(kind, statistics, SHAPE)
        assert {verdict.factor for verdict in verdicts.values()} == {1.0}, name


def test_more_examples_than_a_multiple_of_the_median_count_for_less() -> None:
    statistics = sent("ridge", "every class")
    x, y = images(0, SPLITS["every class"](0), 6000)
    statistics[0] = Statistics(kind_of("ridge").statistics(x, y, CLASSES), 6000)
    verdicts = LIMITS.judge(kind_of("ridge"), statistics, SHAPE)
    assert verdicts[0].factor == 4 * 60 / 6000
    assert verdicts[0].reason == "6,000 examples, 100.0 times the median"
    moments = measure_moments(x, y, CLASSES, True)
    fewer = kind_of("ridge").combine([statistics[0]._replace(factor=verdicts[0].factor)], *SHAPE)
    whole = kind_of("ridge").combine([Statistics(pack_moments(moments), 6000)], *SHAPE)
    np.testing.assert_allclose(fewer.weight, whole.weight, rtol=0.2, atol=0.02)
