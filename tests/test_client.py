"""The ClientApp, called as Flower calls it, and local training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from common.codecs import SharedState, get_codec
from common.config.node import NodeConfig
from common.config.run import RunConfig
from common.downlink import join_chain, pack_quantised, pack_same
from common.messages import (
    BALANCED,
    EVALUATE,
    HEAD,
    HELD_OUT,
    HELLO,
    TRAIN,
    Part,
    Update,
    pack_classes,
    pack_model,
    unpack_hello,
    unpack_update,
)
from common.models.activations import Activations
from common.models.backbone import load_backbone
from common.models.heads import HEADS, Head, Statistics
from common.theta import ONE, Version, quantise, theta_digest
from common.wire import read_header
from deltamask_client.app import app
from deltamask_client.epochs import Recipe
from deltamask_client.methods.deltamask.client import make_codec
from deltamask_client.methods.deltamask.training import train_masks
from deltamask_client.objective import adam, sgd

RECIPE = Recipe(epochs=1, batch_size=16, optimiser=adam(0.1))
CONFIG = RunConfig(train_limit=200, local_epochs=1, head="linear-probe", head_epochs=20, masked_blocks=2)


def context(tmp_path: Path, run: RunConfig = CONFIG, **node: float | str) -> Context:
    node_config = {"partition-id": 1, "num-partitions": 4, "cache-dir": str(tmp_path / "cache")} | node
    return Context(0, 0, node_config, RecordDict(), run.as_dict())


def statistics_of(message: Message) -> Update:
    return unpack_update(message.content, {"statistics": Part(10**6)})


def trained_by(message: Message, head: bool = False) -> Update:
    parts = {"payload": Part(10**6)} | ({"head": Part(10**6)} if head else {})
    return unpack_update(message.content, parts)


def evaluated_by(message: Message) -> Update:
    return unpack_update(message.content, {}, optional=(BALANCED,), least_examples=0)


def order(server_round: int, slot: int = 0, **more: float) -> ConfigRecord:
    """What a message says of the round."""
    return ConfigRecord({"round": server_round, "slot": slot, "gain": 1.0, **more})


def ask(kind: str, content: RecordDict | None = None) -> Message:
    message = Message(content or RecordDict(), dst_node_id=1, message_type=kind)
    message.metadata.__dict__["_message_id"] = "m"
    return message


def model(theta: np.ndarray, backbone, head: Head) -> ArrayRecord:
    chain = join_chain([pack_quantised(Version(theta), backbone.masks.segments)])
    return pack_model({"theta": chain, "head": head.to_bytes()})


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("letters-vit", "default", 0, 2)


def test_hello_names_client_and_model(tmp_path: Path, backbone) -> None:
    hello = unpack_hello(app(ask(HELLO), context(tmp_path)).content)
    assert (hello.client, hello.backbone_digest, hello.masked_parameters) == (1, backbone.digest, backbone.masks.d)


def test_head_then_training_round(tmp_path: Path, backbone) -> None:
    update = statistics_of(app(ask(HEAD), context(tmp_path)))
    assert update.examples == 45, "a tenth of 50 is held out"
    head = Head.from_bytes(update.parts["statistics"], 10, backbone.features)

    d = backbone.masks.d
    theta = np.full(d, quantise(0.95))
    # The head is made of this client's own images alone: there is little left to learn, and Adam moves all the same.
    run = CONFIG.replace(score_optimiser="adam", learning_rate=0.1)
    content = RecordDict({"parts": model(theta, backbone, head), "round": order(2, slot=5)})
    first = trained_by(app(ask(TRAIN, content), context(tmp_path, run)))
    shared = SharedState(theta, run.rounds.seed, 2, 5, backbone.masks.segments)
    mask = get_codec("exact").decode(first.parts["payload"], shared)
    flipped = (mask != shared.mask()).mean()
    assert 0 < flipped < 0.2
    assert 8 * len(first.parts["payload"]) / d < 0.5

    # A new process, or a simulation worker that served others in between, sends the same bytes.
    app(ask(TRAIN, content), context(tmp_path, run, **{"partition-id": 0}))
    again = trained_by(app(ask(TRAIN, content), context(tmp_path, run)))
    assert again.parts["payload"] == first.parts["payload"]


@pytest.mark.parametrize("gain", [None, 1, 0.0, -1.0, float("nan"), 65.0, 0.003, "1"])
def test_a_training_message_without_a_gain_is_refused(tmp_path: Path, backbone, gain: object) -> None:
    head = Head(np.ones((10, 128), np.float32), np.zeros(10, np.float32))
    record = ConfigRecord({"round": 1, "slot": 0} | ({} if gain is None else {"gain": gain}))
    content = RecordDict({"parts": model(np.full(backbone.masks.d, quantise(0.95)), backbone, head), "round": record})
    assert app(ask(TRAIN, content), context(tmp_path)).error.reason.startswith("WrongFormat")


def test_the_servers_gain_and_the_budget_of_the_clients_link_decide_how_much_is_sent(tmp_path: Path, backbone) -> None:
    run, theta = CONFIG.replace(target_bpp=0.01), np.full(backbone.masks.d, quantise(0.95))
    weight = np.random.default_rng(0).standard_normal((10, 128)).astype(np.float32) / 11
    arrays = model(theta, backbone, Head(weight, np.zeros(10, np.float32)))
    shared = SharedState(theta, run.rounds.seed, 1, 0, backbone.masks.segments)

    def sent(gain: float, **node: Any) -> tuple[int, int]:
        content = RecordDict({"parts": arrays, "round": order(1, gain=gain)})
        reply = trained_by(app(ask(TRAIN, content), context(tmp_path, run, **node)))
        changes = np.unique(np.abs(get_codec(node.get("codec", "exact")).change(reply.parts["payload"], shared)))
        return read_header(reply.parts["payload"])[0].n, int(changes[1])

    flips, counts = sent(2.0)
    assert counts == 2 * ONE
    most, fewer = sent(1.0)[0], sent(4.0)[0]
    assert 0 < 1.2 * fewer < flips < most / 1.2
    assert sent(2.0, **{"target-bpp": 0.005}) == sent(4.0), "half the run's budget: twice the gain"
    assert sent(2.0, **{"target-bpp": 0.02}) == sent(2.0), "a better link is no reason to send more"
    assert sent(2.0, codec="fuse16")[1] in range(2 * ONE - 200, 2 * ONE + 1), "the same gain, less what mistakes add"


@pytest.mark.filterwarnings("ignore:Classes")
def test_a_site_keeps_what_the_received_model_says_of_classes_that_it_lacks(tmp_path: Path, backbone) -> None:
    theta = np.full(backbone.masks.d, quantise(0.95))
    weight = np.random.default_rng(0).standard_normal((10, 128)).astype(np.float32) / 11
    arrays = model(theta, backbone, Head(weight, np.zeros(10, np.float32)))

    def payload(strength: float, **config: Any) -> bytes:
        run = CONFIG.replace(vacant_distillation=strength, **config)
        content = RecordDict({"parts": arrays, "round": order(1)})
        return trained_by(app(ask(TRAIN, content), context(tmp_path, run))).parts["payload"]

    two_classes = {"partitioner": "pathological", "classes_per_client": 2, "local_epochs": 4}
    assert payload(3.0, **two_classes) != payload(0.0, **two_classes)
    assert payload(3.0) == payload(0.0), "a site that has all classes"


@pytest.mark.filterwarnings("ignore:Classes")
def test_a_site_with_a_single_class_has_nothing_to_learn_and_sends_nothing(tmp_path: Path, backbone) -> None:
    run = CONFIG.replace(partitioner="pathological", classes_per_client=1)
    weight = np.random.default_rng(0).standard_normal((10, 128)).astype(np.float32) / 11
    arrays = model(np.full(backbone.masks.d, quantise(0.95)), backbone, Head(weight, np.zeros(10, np.float32)))
    reply = trained_by(app(ask(TRAIN, RecordDict({"parts": arrays, "round": order(1)})), context(tmp_path, run)))
    assert read_header(reply.parts["payload"])[0].n == 0


def test_an_evaluation_scores_the_held_out_images_and_keeps_theta(tmp_path: Path, backbone) -> None:
    run = CONFIG.replace(validation_fraction=0.2)
    update = statistics_of(app(ask(HEAD), context(tmp_path, run)))
    assert update.examples == 40
    theta = np.full(backbone.masks.d, quantise(0.95))
    head = Head.from_bytes(update.parts["statistics"], 10, backbone.features)
    content = pack_classes(tuple("0123456789"))
    content["parts"] = model(theta, backbone, head)
    content["round"] = order(1)
    first = evaluated_by(app(ask(EVALUATE, content), context(tmp_path, run)))
    assert first.metrics["examples"] == 10
    assert first.metrics["accuracy"] > 0.5
    assert all(0.5 < first.metrics[name] <= 1 for name in BALANCED)
    assert first.holds == theta_digest(theta)
    # Who holds theta is sent its digest alone, without head or class list.
    parts = pack_model({"theta": join_chain([pack_same(Version(theta))])})
    same = RecordDict({"parts": parts, "round": order(2)})
    again = evaluated_by(app(ask(EVALUATE, same), context(tmp_path, run)))
    assert again.metrics["accuracy"] == first.metrics["accuracy"]
    assert again.metrics["loss"] == first.metrics["loss"]


def test_before_the_first_round_an_evaluation_asks_about_the_head_alone(tmp_path: Path, backbone) -> None:
    run = CONFIG.replace(validation_fraction=0.2)
    update = statistics_of(app(ask(HEAD), context(tmp_path, run)))
    head = Head.from_bytes(update.parts["statistics"], 10, backbone.features)

    def loss(theta: float, server_round: int) -> float:
        arrays = model(np.full(backbone.masks.d, quantise(theta)), backbone, head)
        content = RecordDict({"parts": arrays, "round": order(server_round)})
        return evaluated_by(app(ask(EVALUATE, content), context(tmp_path, run))).metrics["loss"]

    assert loss(0.6, 0) == loss(0.95, 0) == pytest.approx(loss(1 - 2**-16, 1), rel=1e-3)
    assert loss(0.6, 1) != loss(0.95, 1) != loss(0.95, 0)


@pytest.mark.parametrize("check", [0, 3])
def test_training_says_of_the_model_received_what_an_evaluation_would(tmp_path: Path, backbone, check: int) -> None:
    run = CONFIG.replace(validation_fraction=0.2)
    head = Head.from_bytes(
        statistics_of(app(ask(HEAD), context(tmp_path, run))).parts["statistics"], 10, backbone.features
    )
    arrays = model(np.full(backbone.masks.d, quantise(0.8)), backbone, head)

    def content(server_round: int, **more: int) -> RecordDict:
        return RecordDict({"parts": arrays, "round": order(server_round, **more)})

    plain = trained_by(app(ask(TRAIN, content(check + 1)), context(tmp_path / "a", run)))
    reply = app(ask(TRAIN, content(check + 1, check=check)), context(tmp_path / "b", run))
    asked = unpack_update(reply.content, {"payload": Part(10**6)}, optional=(HELD_OUT,))
    evaluated = evaluated_by(app(ask(EVALUATE, content(check)), context(tmp_path / "c", run)))
    assert asked.parts == plain.parts
    assert asked.holds == plain.holds
    for name in HELD_OUT:
        assert asked.metrics[name] == evaluated.metrics[name.removeprefix("held_out_")]
    assert asked.metrics["held_out_examples"] == 10
    assert asked.metrics["examples"] == plain.metrics["examples"] == 40


@pytest.mark.parametrize("check", [-1, 1.5, "1"])
def test_a_question_about_no_round_is_an_error(tmp_path: Path, check: object) -> None:
    message = ask(TRAIN, RecordDict({"round": ConfigRecord({"round": 1, "slot": 0, "gain": 1.0, "check": check})}))
    assert "WrongFormat" in app(message, context(tmp_path)).error.reason


def test_a_class_list_that_is_none_is_refused(tmp_path: Path) -> None:
    for names in (["a", "a"], ["a", ""], [1, 2], ["x" * 2000], "abc"):
        message = ask(HEAD, RecordDict({"classes": ConfigRecord({"names": names})}))
        assert app(message, context(tmp_path)).error.reason.startswith("WrongFormat")


def test_a_client_whose_images_are_missing_says_so_when_asked_who_it_is(tmp_path: Path) -> None:
    reply = app(ask(HELLO), context(tmp_path, data=f"folder:{tmp_path}/none"))
    assert reply.error.reason == "DataError; see the log of this SuperNode"


@pytest.mark.parametrize("kind", ["ridge", "mean"])
def test_the_head_is_measured_as_the_run_says_and_trained_in_its_last_rounds(
    tmp_path: Path, backbone, kind: str
) -> None:
    run = CONFIG.replace(head=kind, head_epochs=300, num_server_rounds=3, head_finetune_rounds=1)
    reply = statistics_of(app(ask(HEAD), context(tmp_path, run)))
    statistics, fitted = reply.parts["statistics"], HEADS[kind]()
    fitted.check(statistics, 10, backbone.features, reply.examples)
    head = fitted.combine([Statistics(statistics, reply.examples)], 10, backbone.features)
    assert reply.metrics["accuracy"] > 0.8, "the accuracy of this client's own head"

    theta = np.full(backbone.masks.d, quantise(0.95))
    arrays = model(theta, backbone, head)

    def train(server_round: int) -> bytes | None:
        content = RecordDict({"parts": arrays, "round": order(server_round)})
        reply = app(ask(TRAIN, content), context(tmp_path, run))
        return trained_by(reply, head=server_round == 3).parts.get("head")

    assert train(2) is None
    trained = train(3)
    assert trained is not None
    moved = np.abs(Head.from_bytes(trained, 10, backbone.features).weight - head.weight)
    assert 0 < moved.max() < 0.1
    assert train(3) == trained, "the same seed must give the same bytes"


def test_errors_reach_the_server_without_paths_or_data(tmp_path: Path) -> None:
    secret = tmp_path / "patients.npz"
    reply = app(ask(HEAD), context(tmp_path, CONFIG.replace(dataset=f"npz:{secret}")))
    assert reply.has_error()
    assert reply.error.reason == "DataError; see the log of this SuperNode"
    assert app(ask(HELLO), context(tmp_path, **{"partition-id": 9})).error.reason.startswith("ConfigError")


def test_relative_weighs_candidates_where_the_client_trains() -> None:
    run = RunConfig(codec="relative")
    for device, expected in (("cpu", None), ("cuda:1", "cuda:1")):
        node = NodeConfig.model_validate({"partition-id": 0, "num-partitions": 1, "device": device})
        assert make_codec(run, node, 1).device == expected


def test_training_lowers_the_loss_and_touches_scores_only(tmp_path: Path, backbone) -> None:
    rng = np.random.default_rng(0)
    activations = Activations(backbone, rng.integers(0, 256, (64, 8, 8), dtype=np.uint8), keep="memory")
    labels = rng.integers(0, 3, 64)
    head = Head(rng.standard_normal((3, 128)).astype(np.float32) / 11, np.zeros(3, np.float32))
    theta = np.full(backbone.masks.d, quantise(0.95))
    frozen = {name: value.clone() for name, value in backbone.tail.state_dict().items() if "score" not in name}

    def train(epochs: int, seed: int = 1, recipe: Recipe = RECIPE):
        return train_masks(backbone, head, activations, labels, theta, replace(recipe, epochs=epochs), seed=seed)

    one, five = train(1), train(5)
    assert five.fit.loss < 0.8 * one.fit.loss
    assert five.fit.accuracy > one.fit.accuracy
    assert five.theta.dtype == np.float32
    assert 0 <= five.theta.min() <= five.theta.max() <= 1
    assert np.array_equal(train(1).theta, one.theta), "the same seed must give the same bits"
    assert not np.array_equal(train(1, seed=2).theta, one.theta)
    for result in (one, five):
        assert result.head.to_bytes() == head.to_bytes()
    now = backbone.tail.state_dict()
    assert all(torch.equal(now[name], value) for name, value in frozen.items())


def test_mean_masks_train_without_chance_and_a_penalty_holds_theta_back(backbone) -> None:
    rng = np.random.default_rng(0)
    activations = Activations(backbone, rng.integers(0, 256, (16, 8, 8), dtype=np.uint8), keep="memory")
    labels = rng.integers(0, 3, 16)
    head = Head(rng.standard_normal((3, 128)).astype(np.float32) / 11, np.zeros(3, np.float32))
    theta = np.full(backbone.masks.d, quantise(0.95))
    recipe = replace(RECIPE, epochs=3, optimiser=sgd(100.0, momentum=0.0))  # all images are one batch

    def train(seed: int = 1, **options: float) -> np.ndarray:
        result = train_masks(backbone, head, activations, labels, theta, recipe, seed=seed, **options)
        return result.theta - theta / 65_536

    means, samples = ([train(seed, sampled=sampled) for seed in (1, 2)] for sampled in (False, True))
    np.testing.assert_allclose(*means, atol=1e-5)
    assert np.abs(samples[0] - samples[1]).max() > 1e-3
    moved = [np.abs(train(sampled=False, penalty=penalty)).mean() for penalty in (0.0, 1.0, 2.0)]
    assert moved[0] > 1.02 * moved[1] > 1.02 * moved[2] > 0


def test_sgd_and_bfloat16_train_too(backbone) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (64, 8, 8), dtype=np.uint8), rng.integers(0, 3, 64)
    head = Head(rng.standard_normal((3, 128)).astype(np.float32) / 11, np.zeros(3, np.float32))
    theta = np.full(backbone.masks.d, quantise(0.95))
    for change in ({"optimiser": sgd(100.0)}, {"precision": torch.bfloat16}):
        recipe = replace(RECIPE, **change)
        activations = Activations(backbone, images, keep="memory", precision=recipe.precision)
        one, six = (
            train_masks(backbone, head, activations, labels, theta, replace(recipe, epochs=n), seed=1) for n in (1, 6)
        )
        assert six.fit.loss < 0.9 * one.fit.loss, change
        assert six.theta.dtype == np.float32


def test_a_node_has_its_own_batch_size_precision_and_place_for_activations(tmp_path: Path, backbone) -> None:
    def trained(**node: int | str) -> bytes:
        weight = np.random.default_rng(0).standard_normal((10, 128)).astype(np.float32) / 11
        head = Head(weight, np.zeros(10, np.float32))
        arrays = model(np.full(backbone.masks.d, quantise(0.95)), backbone, head)
        content = RecordDict({"parts": arrays, "round": order(1)})
        return trained_by(app(ask(TRAIN, content), context(tmp_path, **node))).parts["payload"]

    assert trained() == trained(activations="memory"), "where activations are kept changes nothing"
    assert trained() != trained(**{"batch-size": 10})
    assert trained() != trained(precision="bfloat16")
