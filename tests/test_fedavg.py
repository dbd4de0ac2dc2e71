"""The reference method: float32 weights of the same blocks, averaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Error, Message

from common.config.run import RunConfig
from common.errors import BadMetric, WrongModel
from common.messages import HEAD, HELLO, Hello, pack_hello, pack_update, unpack_round
from common.methods.fedavg.payload import pack_weights, unpack_weights, weights_bytes, weights_digest
from common.methods.fedavg.vector import join_weights
from common.models.activations import Activations
from common.models.backbone import load_backbone
from common.models.heads import Head
from common.models.heads.linear_probe import LinearProbe
from common.models.tail_weights import TailWeights
from deltamask_client.epochs import Recipe
from deltamask_client.methods.fedavg.training import train_weights
from deltamask_client.objective import adam
from deltamask_server.closing import Closing
from deltamask_server.enrolment import Enrolment
from deltamask_server.evaluation import Evaluator
from deltamask_server.methods.fedavg.strategy import FedAvg
from deltamask_server.tools.cli.inspect import explain
from tests.e2e.in_process import run_in_process
from tests.federation import CLASSES, DIGEST, FEATURES, METRICS, SEED, D
from tests.grid import MemoryGrid, Node, answer

TAIL = np.linspace(-1, 1, 50, dtype=np.float32)


def local_weights(client: int) -> np.ndarray:
    rng = np.random.default_rng(client)
    return rng.standard_normal(len(TAIL) + CLASSES * (FEATURES + 1)).astype(np.float32)


def node(client: int, examples: int = 10, weights: np.ndarray | None = None) -> Node:
    def handle(message: Message) -> list[Message]:
        kind = message.metadata.message_type
        if kind == HELLO:
            return [answer(message, pack_hello(Hello(client, DIGEST, D)))]
        if kind == HEAD:
            return [answer(message, Error(2, "none"))]
        parts = message.content.array_records["parts"]
        base = weights_digest(np.frombuffer(parts["weights"].data + parts["head"].data, "<f4"))
        server_round, slot = unpack_round(message.content)
        payload = pack_weights(local_weights(client) if weights is None else weights, server_round, slot, base)
        return [answer(message, pack_update({"payload": payload}, METRICS | {"examples": examples}))]

    return handle


def fedavg(quorum: int = 2) -> FedAvg:
    enrolment = Enrolment(DIGEST, D, min_clients=quorum, wait_seconds=0.2, say=lambda line: None)
    shape = {"classes": CLASSES, "features": FEATURES, "head_kind": LinearProbe()}
    return FedAvg(enrolment, tail=TAIL, seed=SEED, closing=Closing(quorum), **shape)


def play(strategy: FedAvg, nodes: dict[int, Node], rounds: int = 1) -> list:
    reports: list = []
    strategy.start(MemoryGrid(nodes), strategy.arrays(), strategy.server_round + rounds, 0.3, on_round=reports.append)
    return reports


def test_the_result_is_the_mean_by_examples_whoever_answers_first() -> None:
    found = []
    for ids in ([1, 2, 3], [30, 20, 10]):  # the grid delivers the last one first
        strategy = fedavg()
        play(strategy, {number: node(client, examples=client + 1) for client, number in enumerate(ids)}, rounds=2)
        found.append(strategy.weights)
    assert np.array_equal(found[0], found[1])
    expected = sum((client + 1) * local_weights(client).astype(np.float64) for client in range(3)) / 6
    np.testing.assert_allclose(found[0], expected, atol=2**-24)


def test_bytes_are_four_a_parameter_both_ways() -> None:
    strategy = fedavg()
    (report,) = play(strategy, {client: node(client) for client in range(2)})
    assert set(report.tally.payload_bytes.values()) == {weights_bytes(strategy.count)}
    assert set(report.downlink_bytes.values()) == {4 * strategy.count}
    assert report.digest == strategy.digest != fedavg().digest


@pytest.mark.parametrize(
    ("weights", "examples", "reason"),
    [
        (np.full(65, np.nan, np.float32), 10, "bad-metric"),
        (np.full(65, 300, np.float32), 10, "bad-metric"),
        (np.zeros(64, np.float32), 10, "wrong-model"),
        (np.zeros(65, np.float32), 10**9, "bad-metric"),
    ],
)
def test_what_would_spoil_the_mean_is_dropped(weights: np.ndarray, examples: int, reason: str) -> None:
    strategy, honest = fedavg(), fedavg()
    assert strategy.count == 65
    nodes = {client: node(client) for client in range(2)}
    (report,) = play(strategy, nodes | {2: node(2, examples, weights)})
    assert report.tally.failures == {2: reason}
    play(honest, nodes)
    assert np.array_equal(strategy.weights, honest.weights)


def test_payloads_survive_and_mismatches_are_refused() -> None:
    weights, base = local_weights(1), b"12345678"
    payload = pack_weights(weights, 3, 1, base)
    assert np.array_equal(unpack_weights(payload, len(weights), 3, 1, base), weights)
    with pytest.raises(WrongModel):
        unpack_weights(payload, len(weights), 3, 1, b"otherone")
    with pytest.raises(BadMetric):
        unpack_weights(pack_weights(weights * np.inf, 3, 1, base), len(weights), 3, 1, base)


def test_inspect_explains_them() -> None:
    payload = pack_weights(np.array([-0.5, 2.0], np.float32), 3, 1, b"12345678")
    lines, refused = explain(payload)
    assert refused is None
    assert dict(lines)["values"] == "-0.5 to 2"
    assert dict(lines)["parameters"].startswith("2:")
    _, refused = explain(payload[:-1] + b"x")
    assert refused is not None
    assert refused.reason == "checksum"


def test_training_moves_every_parameter_and_leaves_the_backbone_as_it_was() -> None:
    backbone = load_backbone("letters-vit", "default", 0, 2)
    tail = TailWeights(backbone)
    frozen = tail.read()
    assert tail.count == 2 * (12 * 128**2 + 13 * 128) + 2 * 128, "two blocks and the last norm"
    rng = np.random.default_rng(0)
    activations = Activations(backbone, rng.integers(0, 256, (40, 8, 8), dtype=np.uint8), keep="memory")
    labels, head = rng.integers(0, 3, 40), Head(np.zeros((3, 128), np.float32), np.zeros(3, np.float32))

    def train(epochs: int):
        return train_weights(backbone, head, activations, labels, frozen, Recipe(epochs, 10, adam(1e-3)), seed=1)

    one, five = train(1), train(5)
    assert five.fit.loss < one.fit.loss
    assert (five.tail != frozen).mean() > 0.95
    assert join_weights(five.tail, five.head).shape == (tail.count + 3 * 129,)
    assert np.array_equal(join_weights(train(1).tail, train(1).head), join_weights(one.tail, one.head))
    assert np.array_equal(tail.read(), frozen)
    assert not any(p.requires_grad for p in tail.parameters)
    # The same numbers are what a server evaluates.
    evaluator, accuracies = Evaluator(backbone, activations, labels, 16), []
    for values, its_head in ((five.tail, five.head), (frozen, head)):
        with tail.borrowed(values):
            accuracies.append(evaluator.score(its_head).accuracy)
    assert accuracies[0] > accuracies[1]
    assert torch.equal(torch.from_numpy(tail.read()), torch.from_numpy(frozen))


def test_a_whole_run(tmp_path: Path) -> None:
    config = {"method": "fedavg", "train-limit": 120, "test-limit": 50, "local-epochs": 1}
    config |= {"num-server-rounds": 2, "weight-learning-rate": 0.001, "masked-blocks": 2}
    nodes = [{"partition-id": number, "num-partitions": 2} for number in range(2)]
    results = run_in_process(tmp_path, config, nodes)
    assert results["status"] == "completed"
    assert [set(entry["accuracy"]) for entry in results["rounds"]] == [{"mean"}, {"mean"}]
    assert results["rounds"][-1]["train"]["loss"] < results["rounds"][0]["train"]["loss"]
    assert all(32 < entry["uplink"]["bpp"] < 34 for entry in results["rounds"])
    assert RunConfig().method.name == "deltamask"
    assert isinstance(results["rounds"][0]["digest"], str)
