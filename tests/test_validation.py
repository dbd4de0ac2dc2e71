"""What clients hold out, and the figures over their accuracies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from common.codecs import SharedState, get_codec
from common.downlink import apply_chain
from common.messages import EVALUATE, HELD_OUT, TRAIN, pack_update, unpack_classes
from common.models.heads.random_head import RandomHead
from common.theta import Version, theta_digest
from deltamask_client.hold_out import hold_out
from deltamask_server.methods.deltamask.strategy import DeltaMask
from deltamask_server.round_report import RoundReport
from deltamask_server.tally import Tally
from deltamask_server.validation import fairness, pooled, validation_entry
from tests.conftest import local_step
from tests.federation import METRICS, SEED, SEGMENTS, Change, D, node, received_theta, run_rounds, strategy
from tests.grid import MemoryGrid, Node, answer


@given(st.lists(st.integers(0, 6), min_size=1, max_size=200), st.floats(0, 0.9), st.integers(0, 2**62))
def test_parts_are_disjoint_complete_and_stratified(labels: list[int], fraction: float, seed: int) -> None:
    y = np.array(labels)
    train, validation = hold_out(y, fraction, seed)
    assert sorted([*train, *validation]) == list(range(len(y)))
    for label in set(labels):
        total, held = (y == label).sum(), (y[validation] == label).sum()
        assert (y[train] == label).any(), "a class must not vanish from training"
        assert abs(held - min(fraction * total, total - 1)) <= 1
    assert all(np.array_equal(a, b) for a, b in zip((train, validation), hold_out(y, fraction, seed), strict=True))


def test_the_number_held_out_is_the_fraction_and_the_seed_decides_which() -> None:
    y = np.arange(100) % 7
    train, validation = hold_out(y, 0.2, seed=1)
    assert (len(train), len(validation)) == (80, 20)
    assert not np.array_equal(hold_out(y, 0.2, seed=2)[1], validation)
    assert len(hold_out(y, 0.0, seed=1)[1]) == 0


def tally(accuracies: list[float]) -> Tally:
    metrics = {i: METRICS | {"accuracy": accuracy} for i, accuracy in enumerate(accuracies)}
    return Tally(tuple(metrics), {i: 0 for i in metrics}, {i: 99 for i in metrics}, metrics)


def test_fairness_figures() -> None:
    figures = fairness(tally([0.9, 0.5, 0.7]))
    assert figures == pytest.approx({"mean": 0.7, "worst_decile": 0.5, "std": np.std([0.9, 0.5, 0.7])})
    twelve = fairness(tally([i / 12 for i in range(12)]))
    assert twelve is not None
    assert twelve["worst_decile"] == pytest.approx(0.5 / 12)  # two of twelve
    assert fairness(Tally(())) is None


def test_clients_that_hold_nothing_out_do_not_count() -> None:
    some = tally([0.9, 0.5])
    some.metrics[2] = METRICS | {"examples": 0, "accuracy": 0.0}
    assert fairness(some) == fairness(tally([0.9, 0.5]))
    assert validation_entry(some)["clients"]["2"]["examples"] == 0


def test_each_image_counts_the_same_in_the_accuracy_by_which_models_are_kept() -> None:
    some = tally([0.9, 0.5])
    some.metrics[0] = METRICS | {"accuracy": 0.9, "examples": 30}
    some.metrics[2] = METRICS | {"examples": 0, "accuracy": 0.0}
    assert pooled(some) == pytest.approx(((0.9 * 30 + 0.5 * 10) / 40, 0.5))
    entry = validation_entry(some)
    assert (entry["pooled"], entry["pooled_loss"]) == pooled(some)
    del some.metrics[0], some.metrics[1]
    assert pooled(some) is None


# -- over the strategy: clients that keep theta, and are asked after every round


GOOD = {"balanced": 0.4, "macro_f1": 0.3}


class Sites:
    """Honest clients that say how good a model is, as an evaluation or a training message asks; ``change`` replaces
    client 0's answers to messages of a kind.

    Accuracies are those of `accuracies` by round, the last for all later ones, and a tenth more for each client.
    """

    def __init__(
        self, count: int, change: Change | None = None, accuracies: Sequence[float] = (0.5,), kind: str = EVALUATE
    ) -> None:
        self.evaluated: list[tuple[int, bytes]] = []
        self.asked: list[tuple[str, int]] = []
        """Of client 0: kinds of messages, and the rounds of the models that they ask about."""
        self.change, self.accuracies, self.kind = change, accuracies, kind
        self.grid = MemoryGrid({client: self.node(client) for client in range(count)})

    def node(self, client: int) -> Node:
        honest = node(client)

        def handle(message: Message) -> list[Message]:
            kind = message.metadata.message_type
            if kind not in (TRAIN, EVALUATE):
                return honest(message)
            order = message.content["round"]
            content = honest(message)[0].content if kind == TRAIN else pack_update({}, METRICS)
            if kind == EVALUATE or "check" in order:
                server_round = int(order["round" if kind == EVALUATE else "check"])
                accuracy = self.accuracies[min(server_round, len(self.accuracies) - 1)] + client / 10
                found = {"examples": 10, "loss": 0.5, "accuracy": accuracy} | GOOD
                content["metrics"].update({f"held_out_{n}": v for n, v in found.items()} if kind == TRAIN else found)
                self.evaluated.append((client, theta_digest(received_theta(message))))
                if client == 0:
                    self.asked.append((kind, server_round))
            if self.change and client == 0 and kind == self.kind:
                return [answer(message, reply) for reply in self.change(content, message)]
            return [answer(message, content)]

        return handle


def test_every_client_evaluates_the_theta_of_the_round() -> None:
    sites = Sites(3)
    deltamask = strategy(validate=True, participation=0.5)
    reports = run_rounds(deltamask, sites.grid, rounds=2)
    expected = [(client, theta_digest(report.theta)) for report in reports for client in range(3)]
    assert sorted(sites.evaluated) == sorted(expected)
    for report in reports:
        assert report.validation is not None
        assert fairness(report.validation) == pytest.approx(
            {"mean": 0.6, "worst_decile": 0.5, "std": np.std([0.5, 0.6, 0.7])}
        )
        assert set(report.tally.payload_bytes) == set(report.tally.asked), "the round's own tally is as it was"
        assert len(report.tally.asked) == 2
        assert set(report.downlink_bytes) == {0, 1, 2}
        for client in validation_entry(report.validation)["clients"].values():
            assert (client["balanced"], client["macro_f1"]) == (0.4, 0.3)


def test_training_asks_about_the_model_that_it_brings_and_a_message_of_its_own_about_the_last() -> None:
    sites, deltamask, reports = Sites(2, accuracies=(0.5, 0.6, 0.7, 0.8)), strategy(validate=True), []
    begin(deltamask, sites)
    start = theta_digest(deltamask.theta)
    thetas = [deltamask.theta]

    def ended(report: RoundReport) -> None:
        reports.append(report)
        thetas.append(deltamask.theta)

    deltamask.start(sites.grid, deltamask.arrays(), 3, 0.3, on_round=ended)
    assert sites.asked == [(TRAIN, 0), (TRAIN, 1), (TRAIN, 2), (EVALUATE, 3)]
    assert [name for client, name in sites.evaluated if client == 0] == [start, *map(theta_digest, thetas[1:])]
    assert [report.earlier and report.earlier[0] for report in reports] == [0, 1, 2]
    assert [report.validation is None for report in reports] == [True, True, False]
    for report, accuracy in zip(reports, (0.5, 0.6, 0.7), strict=True):
        entry = validation_entry(report.earlier[1])
        assert entry["pooled"] == pytest.approx(accuracy + 0.05)
        assert (entry["clients"]["1"]["balanced"], entry["clients"]["1"]["macro_f1"]) == (0.4, 0.3)
        assert report.tally.metrics[0]["examples"] == METRICS["examples"], "what was trained on is counted as ever"
    assert deltamask.keeper.checked == [(r, pytest.approx(0.55 + r / 10)) for r in range(4)]


def begin(deltamask: DeltaMask, sites: Sites) -> tuple[Tally, dict[int, int]] | None:
    """What a run does before its rounds."""
    deltamask.fit_head(sites.grid, 0.3)
    return deltamask.validate_head(sites.grid, 0.3)


def test_the_head_alone_is_what_the_first_round_asks_about() -> None:
    sites, deltamask = Sites(2), strategy(validate=True)
    start = theta_digest(deltamask.theta)
    assert begin(deltamask, sites) is None
    run_rounds(deltamask, sites.grid)
    assert sites.evaluated[:2] == [(0, start), (1, start)]
    assert deltamask.keeper.first == pytest.approx(0.55)
    assert (deltamask.keeper.best.tensors["theta"].numpy() == 65_535).all(), "the pre-trained function, in DeltaMask's"


def test_where_a_round_takes_a_sample_all_are_asked_about_the_head_before_the_first() -> None:
    sites = Sites(2)
    deltamask = strategy(validate=True, participation=0.5)
    found = begin(deltamask, sites)
    assert found is not None
    replies, sent = found
    assert set(replies.metrics) == set(sent) == {0, 1}
    assert sites.asked == [(EVALUATE, 0)]
    assert deltamask.keeper.first == pytest.approx(0.55)


def test_nobody_is_asked_about_the_head_where_nothing_is_held_out_or_rounds_have_been() -> None:
    assert begin(strategy(), Sites(2)) is None
    assert begin(strategy(validate=True, head_kind=RandomHead()), Sites(2)) is None
    deltamask, sites = strategy(validate=True), Sites(2)
    run_rounds(deltamask, sites.grid)
    assert begin(deltamask, sites) is None


def test_the_best_model_by_the_images_held_out_is_kept() -> None:
    deltamask, sites = strategy(validate=True), Sites(3, accuracies=(0.5, 0.6, 0.8, 0.7))
    begin(deltamask, sites)
    reports = run_rounds(deltamask, sites.grid, rounds=3)
    best = deltamask.keeper.best
    assert (best.server_round, best.accuracy) == (2, pytest.approx(0.9))
    assert np.array_equal(best.tensors["theta"].numpy(), reports[1].theta)
    assert deltamask.keeper.first == pytest.approx(0.6)


@pytest.mark.parametrize(("patience", "rounds"), [(0, 8), (2, 4), (7, 8)])
def test_a_run_ends_where_patience_does(patience: int, rounds: int) -> None:
    deltamask, sites = strategy(validate=True, patience=patience), Sites(2, accuracies=(0.5, 0.6, 0.8, 0.7))
    begin(deltamask, sites)
    assert len(run_rounds(deltamask, sites.grid, rounds=8)) == rounds
    assert deltamask.keeper.best.server_round == 2
    assert deltamask.keeper.checked[-1][0] == rounds, "the last model has been looked at"


def test_theta_does_not_depend_on_being_evaluated() -> None:
    with_questions, without = strategy(validate=True), strategy()
    run_rounds(with_questions, Sites(3).grid, rounds=2)
    (*_, last) = run_rounds(without, Sites(3).grid, rounds=2)
    assert np.array_equal(with_questions.theta, without.theta)
    assert last.validation is None


def test_theta_that_a_client_kept_from_an_evaluation_is_not_sent_again() -> None:
    held: dict[int, Version] = {}
    sizes: list[tuple[str, int]] = []

    def keeper(client: int) -> Node:
        honest = node(client)

        def handle(message: Message) -> list[Message]:
            kind = message.metadata.message_type
            if kind not in (TRAIN, EVALUATE):
                return honest(message)
            chain = message.content.array_records["parts"]["theta"].data
            version = held[client] = apply_chain(chain, held.get(client), D, SEED, SEGMENTS)
            theta = version.theta
            sizes.append((kind, len(chain)))
            if kind == EVALUATE:
                return [answer(message, pack_update({}, METRICS, theta_digest(theta)))]
            order = message.content["round"]
            shared = SharedState(theta, SEED, int(order["round"]), int(order["slot"]))
            payload = get_codec("fuse8").encode(local_step(theta, seed=client), shared)
            return [answer(message, pack_update({"payload": payload}, METRICS, theta_digest(theta)))]

        return handle

    grid = MemoryGrid({client: keeper(client) for client in range(2)})
    reports = run_rounds(strategy(validate=True, participation=0.5), grid, rounds=3)
    assert not any(report.tally.failures for report in reports)
    assert [size for kind, size in sizes if kind == TRAIN][2:] == [32] * 4
    assert reports[1].downlink_bytes[0] == 32 + sizes[6][1]


BAD: dict[str, tuple[str, Change]] = {
    "accuracy above 1": ("bad-metric", lambda content, message: [pack_update({}, METRICS | {"accuracy": 1.5})]),
    "NaN": ("bad-metric", lambda content, message: [pack_update({}, METRICS | {"accuracy": float("nan")})]),
    "fewer than no images": ("bad-metric", lambda content, message: [pack_update({}, METRICS | {"examples": -1})]),
    "fewer than no broken images": ("bad-metric", lambda content, message: [pack_update({}, METRICS | {"broken": -1})]),
    "a metric less": (
        "bad-metric",
        lambda content, message: [RecordDict({"parts": ConfigRecord(), "metrics": MetricRecord({"accuracy": 1.0})})],
    ),
    "balanced accuracy above 1": (
        "bad-metric",
        lambda content, message: [pack_update({}, METRICS | GOOD | {"balanced": 1.5})],
    ),
    "balanced accuracy alone": ("bad-metric", lambda content, message: [pack_update({}, METRICS | {"balanced": 0.5})]),
    "personal accuracy": (
        "wrong-format",
        lambda content, message: [pack_update({}, METRICS | {"personal": 0.5, "tested": 9})],
    ),
    "a payload": ("wrong-format", lambda content, message: [pack_update({"payload": b"x" * 10**6}, METRICS)]),
    "nothing": ("wrong-format", lambda content, message: [RecordDict()]),
    "twice": ("duplicate", lambda content, message: [content, content]),
    "an exception": ("client-error", lambda content, message: [Error(2, "DataError")]),
    "silence": ("no-reply", lambda content, message: []),
}


RIDING: dict[str, tuple[str, dict[str, float], list[str]]] = {
    "accuracy above 1": ("bad-metric", {"held_out_accuracy": 1.5}, []),
    "macro F1 below 0": ("bad-metric", {"held_out_macro_f1": -0.1}, []),
    "no number": ("bad-metric", {"held_out_loss": float("nan")}, []),
    "fewer than no images": ("bad-metric", {"held_out_examples": -1}, []),
    "one less": ("bad-metric", {}, ["held_out_loss"]),
    "one more": ("wrong-format", {"held_out_seconds": 1.0}, []),
}


@pytest.mark.parametrize("name", RIDING)
def test_a_training_reply_with_bad_figures_is_dropped_and_counted(name: str) -> None:
    reason, wrong, missing = RIDING[name]

    def change(content: RecordDict, message: Message) -> list[RecordDict | Error]:
        content["metrics"].update(wrong)
        for key in missing:
            del content["metrics"][key]
        return [content]

    sites, deltamask = Sites(3, change, kind=TRAIN), strategy(validate=True)
    begin(deltamask, sites)
    (report,) = run_rounds(deltamask, sites.grid)
    assert dict(report.tally.dropped) == {reason: 1}
    assert set(report.tally.payload_bytes) == {1, 2}
    assert deltamask.keeper.first == pytest.approx(0.65)


def test_figures_that_nobody_asked_for_are_refused() -> None:
    def change(content: RecordDict, message: Message) -> list[RecordDict | Error]:
        return [pack_update({"payload": content["parts"]["payload"]}, METRICS | dict.fromkeys(HELD_OUT, 0.5))]

    (report,) = run_rounds(strategy(), Sites(3, change, kind=TRAIN).grid)
    assert dict(report.tally.dropped) == {"wrong-format": 1}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_is_dropped_and_counted_and_the_run_goes_on(name: str) -> None:
    reason, change = BAD[name]
    deltamask = strategy(validate=True)
    (report,) = run_rounds(deltamask, Sites(3, change).grid)
    assert report.validation is not None
    assert dict(report.validation.dropped) == {reason: 1}
    counted = {1, 2} if name != "twice" else {0, 1, 2}
    assert set(report.validation.metrics) == counted
    assert not report.tally.dropped


def test_the_class_list_travels_with_the_head_only() -> None:
    names = ("ant", "bee", "cow")
    sites = Sites(2)
    deltamask = strategy(class_names=names)
    deltamask.fit_head(sites.grid, timeout=0.3)
    run_rounds(deltamask, sites.grid)
    lists = {message.metadata.message_type: unpack_classes(message.content) for message in sites.grid.sent}
    assert lists["train.head"] == lists["train"] == names


def test_what_one_client_says_counts_for_a_few_median_clients_at_most() -> None:
    said = {client: {"examples": 10, "accuracy": 0.8, "loss": 0.5} for client in range(9)}
    liar = {9: {"examples": 10**9, "accuracy": 0.0, "loss": 9.0}}
    assert pooled(Tally((), metrics=said | liar)) == pytest.approx((0.0, 9.0), abs=1e-6)
    accuracy, loss = pooled(Tally((), metrics=said | liar, most_examples=4.0)) or (0, 0)
    assert accuracy == pytest.approx(0.8 * 90 / 130)
    assert loss == pytest.approx((0.5 * 90 + 9.0 * 40) / 130)
    empty = {client: one | {"examples": 0} for client, one in said.items()}
    assert pooled(Tally((), metrics=empty, most_examples=4.0)) is None
