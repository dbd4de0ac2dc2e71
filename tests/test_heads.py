"""The kinds of head: what they learn, that closed forms do not see how data is divided, and training the head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.config.run import RunConfig, parse_run_config
from common.errors import BadMetric, ConfigError
from common.methods.deltamask.config import frozen_head_rounds
from common.models.heads import HEADS, Head, Statistics
from common.models.heads.base import softmax_head
from common.models.heads.linear_probe import LinearProbe, average_heads
from common.models.heads.moments import Moments, measure_moments, merge_moments, pack_moments
from common.models.heads.ridge import solve_ridge
from tests.e2e.in_process import run_in_process

KINDS = [name for name, kind in HEADS.items() if kind.fitted]
CLOSED = ("ridge", "mean")
CLASSES, FEATURES = 4, 12


def blobs(n: int, seed: int = 0, offset: float = 5.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated classes with overlap, far from zero, as features of a network are."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    centres = np.random.default_rng(99).standard_normal((CLASSES, FEATURES))
    mixing = np.random.default_rng(98).standard_normal((FEATURES, FEATURES)) / 3
    features = offset + centres[labels] + rng.standard_normal((n, FEATURES)) @ mixing
    return torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels)


def federate(
    name: str, features: torch.Tensor, labels: torch.Tensor, owner: np.ndarray, classes: int = CLASSES
) -> Head:
    """The head of clients that own the examples with their number."""
    kind = LinearProbe(epochs=100) if name == LinearProbe.name else HEADS[name]()
    replies = []
    for client in np.unique(owner):
        mine = torch.from_numpy(owner == client)
        data, examples = kind.statistics(features[mine], labels[mine], classes), int(mine.sum())
        assert len(data) <= kind.max_bytes(classes, features.shape[1])
        kind.check(data, classes, features.shape[1], examples)
        replies.append(Statistics(data, examples))
    return kind.combine(replies, classes, features.shape[1])


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_the_config_separates_what_is_separable(name: str) -> None:
    assert HEADS[name].from_config(RunConfig(head=name)).name == name
    (features, labels), (x, y) = blobs(400), blobs(400, seed=1)
    head = federate(name, features, labels, np.arange(400) % 5)
    assert (head(x).argmax(1) == y).float().mean() > 0.85


# -- closed forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLOSED)
@given(owner=st.lists(st.integers(0, 6), min_size=60, max_size=60), seed=st.integers(0, 3))
def test_closed_forms_do_not_depend_on_who_holds_what(name: str, owner: list[int], seed: int) -> None:
    features, labels = blobs(60, seed)
    whole = federate(name, features, labels, np.zeros(60, int))
    split = federate(name, features, labels, np.array(owner))
    np.testing.assert_allclose(split.weight, whole.weight, atol=1e-4)
    torch.testing.assert_close(split(features), whole(features), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_of_clients_with_one_class_or_one_example(name: str) -> None:
    features, labels = blobs(80)
    whole = federate(name, features, labels, np.zeros(80, int))
    for owner in (labels.numpy(), np.arange(80)):
        torch.testing.assert_close(
            federate(name, features, labels, owner)(features), whole(features), atol=1e-4, rtol=0
        )


def test_a_linear_probe_does_depend_on_it() -> None:
    features, labels = blobs(200)
    probes = [federate("linear-probe", features, labels, owner) for owner in (np.arange(200) % 4, labels.numpy())]
    assert (probes[0](features) - probes[1](features)).abs().max() > 1


def test_ridge_is_what_the_normal_equations_say() -> None:
    features, labels = blobs(50)
    x, y = features.numpy().astype(np.float64), np.eye(CLASSES)[labels.numpy()]
    weight, bias, penalty = solve_ridge(measure_moments(features, labels, CLASSES, matrix=True))
    ones = np.hstack([x, np.ones((50, 1))])  # the intercept as a feature without penalty
    gram = ones.T @ ones + penalty * np.diag([*np.ones(FEATURES), 0.0])
    solution = np.linalg.solve(gram, ones.T @ y)
    np.testing.assert_allclose(weight, solution[:-1].T, atol=1e-9)
    np.testing.assert_allclose(bias, solution[-1], atol=1e-8)


def test_the_penalty_has_the_least_generalised_cross_validation_error() -> None:
    features, labels = blobs(30)
    x, y = features.numpy().astype(np.float64), np.eye(CLASSES)[labels.numpy()]
    x, y = x - x.mean(0), y - y.mean(0)
    moments = measure_moments(features, labels, CLASSES, matrix=True)
    penalty = solve_ridge(moments)[2]

    def error(candidate: float) -> float:
        hat = x @ np.linalg.solve(x.T @ x + candidate * np.eye(FEATURES), x.T)
        return ((y - hat @ y) ** 2).sum() / (len(x) - 1 - np.trace(hat)) ** 2

    unit = np.trace(moments.total) / FEATURES
    grid = [unit * 10 ** (step / 4) for step in range(-16, 13)]
    assert penalty == pytest.approx(min(grid, key=error))
    assert grid[0] < penalty < grid[-1]


def test_the_class_mean_head_names_the_nearest_mean() -> None:
    features, labels = blobs(100)
    head = federate("mean", features, labels, np.arange(100) % 3)
    means = np.stack([features.numpy()[labels == label].mean(0) for label in range(CLASSES)])
    nearest = ((features.numpy()[:, None] - means) ** 2).sum(-1).argmin(1)
    assert np.array_equal(head(features).argmax(1).numpy(), nearest)


@pytest.mark.parametrize("name", CLOSED)
def test_a_class_that_nobody_has_is_never_named(name: str) -> None:
    features, labels = blobs(100)
    head = federate(name, features, labels, np.arange(100) % 2, classes=CLASSES + 2)
    anywhere = torch.randn(1000, FEATURES, generator=torch.Generator().manual_seed(0)) * 100
    logits = head(anywhere)
    assert (logits[:, CLASSES:].amax(1) <= logits[:, :CLASSES].amax(1) - 9.9).all()


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_scale_of_the_features_changes_no_logit(name: str, scale: float) -> None:
    features, labels = blobs(100)
    expected = federate(name, features, labels, np.zeros(100))(features)
    scaled = federate(name, features * scale, labels, np.zeros(100))(features * scale)
    torch.testing.assert_close(scaled, expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize(
    ("features", "labels"),
    [
        (torch.ones(1, 3), [1]),
        (torch.ones(5, 3), [0, 1, 1, 0, 1]),  # nothing varies
        (torch.arange(12.0).reshape(4, 3), [2, 2, 2, 2]),  # one class
        (torch.arange(6.0).reshape(2, 3), [0, 1]),  # one example of each
        (1e-20 * torch.arange(12.0).reshape(4, 3), [0, 1, 2, 0]),
    ],
)
def test_degenerate_data_give_a_finite_head(name: str, features: torch.Tensor, labels: list[int]) -> None:
    head = federate(name, features, torch.tensor(labels), np.zeros(len(labels)), classes=3)
    Head.from_bytes(head.to_bytes(), 3, 3)


def test_a_head_beyond_what_clients_take_is_made_softer() -> None:
    head = softmax_head(np.eye(3) * 1e9, np.zeros(3), np.ones(3, int), 1.0)
    assert head.weight.max() == pytest.approx(1e6)
    assert head.weight.argmax(1).tolist() == [0, 1, 2]


def test_moments_merge_to_those_of_all_examples() -> None:
    features, labels = blobs(90, offset=100.0)
    whole = measure_moments(features, labels, CLASSES, matrix=True)
    cuts = [(0, 1), (1, 50), (50, 90)]
    parts = [measure_moments(features[a:b], labels[a:b], CLASSES, matrix=True) for a, b in cuts]
    merged = merge_moments(
        [Statistics(pack_moments(part), b - a) for part, (a, b) in zip(parts, cuts, strict=True)],
        CLASSES,
        FEATURES,
        matrix=True,
    )
    assert np.array_equal(merged.counts, whole.counts)
    np.testing.assert_allclose(merged.means, whole.means, rtol=1e-6)
    np.testing.assert_allclose(merged.within, whole.within, rtol=1e-3, atol=1e-2)
    x = features.numpy().astype(np.float64)
    np.testing.assert_allclose(whole.total, (x - x.mean(0)).T @ (x - x.mean(0)), rtol=1e-9)


def test_statistics_leave_out_the_means_of_absent_classes() -> None:
    moments = Moments(np.array([3, 0, 2, 0]), np.zeros((4, 5)), np.eye(5))
    assert len(pack_moments(moments)) == 4 * (4 + 2 * 5 + 15)


# -- the linear probe --------------------------------------------------------------------------------------------------


def test_heads_average_by_examples_and_survive_their_bytes() -> None:
    a = Head(np.ones((2, 3), np.float32), np.zeros(2, np.float32))
    b = Head(np.zeros((2, 3), np.float32), np.full(2, 4.0, np.float32))
    mean = average_heads([(a, 3), (b, 1)])
    assert mean.weight.tolist() == np.full((2, 3), 0.75).tolist()
    assert mean.bias.tolist() == [1.0, 1.0]
    back = Head.from_bytes(mean.to_bytes(), 2, 3)
    assert np.array_equal(back.weight, mean.weight)
    assert np.array_equal(back.bias, mean.bias)
    for bad in (mean.to_bytes()[:-1], np.full(8, np.nan, "<f4").tobytes()):
        with pytest.raises(BadMetric):
            Head.from_bytes(bad, 2, 3)


# -- rounds that train the head ----------------------------------------------------------------------------------------


def test_more_rounds_for_the_head_than_there_are_is_refused() -> None:
    assert frozen_head_rounds(parse_run_config({"num-server-rounds": 5, "head-finetune-rounds": 5})) == 0
    with pytest.raises(ConfigError, match="head-finetune-rounds = 6"):
        parse_run_config({"num-server-rounds": 5, "head-finetune-rounds": 6})


@pytest.mark.parametrize("name", CLOSED)
def test_a_whole_run_counts_every_byte_of_the_head(name: str, tmp_path: Path) -> None:
    config = {"head": name, "train-limit": 100, "test-limit": 50, "local-epochs": 1, "masked-blocks": 1, "threads": 1}
    config |= {"num-server-rounds": 3, "head-finetune-rounds": 2, "validation-fraction": 0.0}
    config |= {"score-optimiser": "adam"}  # moves all scores, however little there is to learn
    nodes = [{"partition-id": number, "num-partitions": 2} for number in range(2)]
    tuned = run_in_process(tmp_path / "tuned", config, nodes)
    frozen = run_in_process(tmp_path / "frozen", config | {"head-finetune-rounds": 0}, nodes)
    assert tuned["status"] == frozen["status"] == "completed"
    assert tuned["linear_probe"] == frozen["linear_probe"] | {"seconds": tuned["linear_probe"]["seconds"]}
    expected = 4 * (10 + 10 * 128 + (128 * 129 // 2 if name == "ridge" else 1))
    assert tuned["linear_probe"]["uplink"]["payload_bytes"] == {"0": expected, "1": expected}
    assert tuned["rounds"][0] == frozen["rounds"][0] | {"seconds": tuned["rounds"][0]["seconds"]}
    size, sent = 4 * 10 * (128 + 1), tuned["rounds"][1]["downlink"]["payload_bytes"]
    # What the first round left was the same, so what round 2 sends down is too; its replies bring heads.
    assert sent == frozen["rounds"][1]["downlink"]["payload_bytes"]
    assert all(value > size for value in tuned["rounds"][1]["uplink"]["payload_bytes"].values())
    assert all(value > size for value in tuned["rounds"][2]["downlink"]["payload_bytes"].values())
    assert tuned["rounds"][1]["digest"] != frozen["rounds"][1]["digest"]
