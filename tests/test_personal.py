"""Personal accuracy: clients test the model they have just trained on test images of their own classes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from common.config.node import NodeConfig, parse_node_config
from common.config.run import RunConfig
from common.data import open_split
from common.downlink import join_chain, pack_quantised
from common.errors import WrongFormat
from common.messages import (
    HEAD,
    HELLO,
    PERSONAL,
    TRAIN,
    Part,
    Update,
    pack_classes,
    pack_model,
    pack_update,
    unpack_update,
)
from common.methods.fedavg.payload import unpack_weights, weights_digest
from common.methods.fedavg.vector import join_weights
from common.models.accuracy import loss_and_accuracy
from common.models.activations import Activations
from common.models.backbone import load_backbone
from common.models.heads import HEADS, Head, Statistics
from common.models.tail_weights import TailWeights
from common.theta import Version, quantise
from common.uniforms import stream_seed
from deltamask_client.app import app
from deltamask_client.methods.deltamask.training import train_masks
from deltamask_client.objective import Objective, adam, calibrated
from deltamask_client.site import load_site, recipe_of
from deltamask_server.console import header, round_line, summary
from deltamask_server.run_folder import RunFolder
from deltamask_server.tally import Tally
from deltamask_server.validation import fairness, personal_entry
from tests.e2e.in_process import run_in_process
from tests.federation import METRICS, Change, node, run_rounds, strategy
from tests.grid import MemoryGrid
from tests.images import write_folder
from tests.test_run_folder import report, scored

RUN = RunConfig(
    personal_test=True,
    train_limit=100,
    test_limit=120,
    partitioner="pathological",
    classes_per_client=2,
    local_epochs=1,
    masked_blocks=1,
    num_server_rounds=5,
    eval_every=2,
)
MASKS = RUN.replace(score_optimiser="adam")
FEDAVG = RUN.replace(method="fedavg", weight_learning_rate=0.001)


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("letters-vit", "default", 0, 1)


@pytest.fixture(scope="module")
def head(backbone) -> Head:
    """Class means of 60 training images: right about most test images, and wrong about some."""
    split = open_split("digits", "train", 8, Path("unused"))
    images = split.load(split.balanced(60))
    ((_, tokens),) = Activations(backbone, images.images, keep="memory").batches(60)
    features, labels = backbone.unmasked_features(tokens), torch.from_numpy(images.labels)
    kind = HEADS["mean"]()
    return kind.combine([Statistics(kind.statistics(features, labels, 10), 60)], 10, backbone.features)


def node_values(tmp_path: Path, **values: int | str) -> dict[str, int | str]:
    return {"partition-id": 1, "num-partitions": 4, "cache-dir": str(tmp_path / "cache")} | values


def train(tmp_path: Path, run: RunConfig, model: bytes, head: Head, server_round: int = 2, **values: str) -> Update:
    content = pack_classes(tuple("0123456789"))
    name = "theta" if run.method.name == "deltamask" else "weights"
    content["parts"] = pack_model({name: model, "head": head.to_bytes()})
    content["round"] = ConfigRecord({"round": server_round, "slot": 0, "gain": 1.0})
    message = Message(content, dst_node_id=1, message_type=TRAIN)
    message.metadata.__dict__["_message_id"] = "m"
    context = Context(0, 0, node_values(tmp_path, **values), RecordDict(), run.as_dict())
    return unpack_update(app(message, context).content, {"payload": Part(10**7)}, optional=(PERSONAL,))


def own_test_images(run: RunConfig, backbone, own: set[int]) -> tuple[Activations, np.ndarray]:
    split = open_split("digits", "test", 8, Path("unused"))
    images = split.load(split.balanced(run.data.test_limit))
    wanted = np.array([label in own for label in images.labels])
    return Activations(backbone, images.images[wanted], keep="memory"), images.labels[wanted]


def site_of(tmp_path: Path, run: RunConfig):
    config: NodeConfig = parse_node_config(node_values(tmp_path))
    return load_site(run, config, tuple("0123456789")), config


def test_fedavg_clients_test_the_weights_they_send(tmp_path: Path, backbone, head: Head) -> None:
    run = FEDAVG
    tail = TailWeights(backbone)
    frozen = tail.read()
    base = weights_digest(join_weights(frozen, head))
    update = train(tmp_path, run, frozen.tobytes(), head)
    sent = unpack_weights(update.parts["payload"], tail.count + 10 * (backbone.features + 1), 2, 0, base)
    trained, rest = np.split(sent, [tail.count])

    own = set(site_of(tmp_path, run)[0].labels.tolist())
    assert len(own) == 2
    activations, labels = own_test_images(run, backbone, own)
    assert len(labels) == 24
    with tail.borrowed(trained):
        local_head = Head.from_bytes(rest.tobytes(), 10, backbone.features)
        expected = loss_and_accuracy(backbone.tail, local_head, activations, labels, 250)[1]
    with tail.borrowed(frozen):
        before = loss_and_accuracy(backbone.tail, head, activations, labels, 250)[1]
    assert update.metrics["personal"] == expected != before
    assert update.metrics["tested"] == 24


def test_deltamask_clients_test_the_weights_times_their_theta(tmp_path: Path, backbone, head: Head) -> None:
    theta = np.full(backbone.masks.d, quantise(0.95))
    update = train(tmp_path, MASKS, join_chain([pack_quantised(Version(theta), backbone.masks.segments)]), head)
    site, config = site_of(tmp_path, MASKS)
    result = train_masks(
        backbone,
        head,
        site.activations,
        site.labels,
        theta,
        recipe_of(MASKS, config, adam(0.1), Objective(calibrated(site.labels, 10))),
        seed=stream_seed(MASKS.rounds.seed, 2, 1, "train"),
    )
    activations, labels = own_test_images(MASKS, backbone, set(site.labels.tolist()))
    backbone.masks.set_multiplier(torch.from_numpy(result.theta))
    assert update.metrics["personal"] == loss_and_accuracy(backbone.tail, head, activations, labels, 250)[1] > 0.5
    backbone.masks.unmask()
    assert update.metrics["personal"] != loss_and_accuracy(backbone.tail, head, activations, labels, 250)[1]


def test_nothing_is_tested_where_it_was_not_asked_or_is_not_the_clients(tmp_path: Path, backbone, head: Head) -> None:
    run = FEDAVG
    frozen = TailWeights(backbone).read().tobytes()
    assert {n for n in range(1, 6) if run.evaluates(n)} == {2, 4, 5}
    tested = train(tmp_path, run, frozen, head)
    assert "personal" in tested.metrics
    files = set((tmp_path / "cache").glob("*.npy"))
    assert len(files) == 2, "activations of the training images, and of the test images"

    without = run.replace(personal_test=False)
    for update in (train(tmp_path, run, frozen, head, 3), train(tmp_path, without, frozen, head)):
        assert set(update.metrics) == set(METRICS)
    assert train(tmp_path, without, frozen, head).parts["payload"] == tested.parts["payload"], (
        "the test leaves no trace in training"
    )
    assert "personal" in train(tmp_path, run, frozen, head, 5).metrics
    assert set((tmp_path / "cache").glob("*.npy")) == files

    images = open_split("digits", "train", 8, tmp_path).load(np.arange(20))
    np.savez(tmp_path / "own.npz", x_train=images.images, y_train=images.labels)
    assert "personal" not in train(tmp_path, run, frozen, head, data=f"npz:{tmp_path}/own.npz").metrics


def test_a_client_without_test_images_of_its_classes_has_no_figure(tmp_path: Path, backbone, head: Head) -> None:
    run = FEDAVG.replace(test_limit=1)  # one image, of class 0
    own = set(site_of(tmp_path, run)[0].labels.tolist())
    assert 0 not in own
    assert "personal" not in train(tmp_path, run, TailWeights(backbone).read().tobytes(), head).metrics


def test_a_test_class_that_the_run_has_not_keeps_the_client_out(tmp_path: Path) -> None:
    write_folder(tmp_path / "data" / "train", {"apple": 3, "fern": 3})
    write_folder(tmp_path / "data" / "test", {"apple": 2, "sea": 2})
    run = RunConfig(dataset=f"folder:{tmp_path}/data", personal_test=True)

    def hello(run: RunConfig) -> Message:
        message = Message(pack_classes(("apple", "fern")), dst_node_id=1, message_type=HELLO)
        message.metadata.__dict__["_message_id"] = "m"
        return app(message, Context(0, 0, node_values(tmp_path), RecordDict(), run.as_dict()))

    assert hello(run).error.reason.startswith("DataError")
    assert not hello(run.replace(personal_test=False)).has_error()


# -- what the server makes of it

GOOD = {"personal": 0.75, "tested": 24}


def reporting(**values: object) -> Change:
    """The honest update, with more metrics."""
    return lambda content, message: [
        RecordDict({"parts": content["parts"], "metrics": MetricRecord({**METRICS, **values})})
    ]


HOSTILE: dict[str, tuple[str, dict[str, object]]] = {
    "accuracy above 1": ("bad-metric", GOOD | {"personal": 1.5}),
    "accuracy below 0": ("bad-metric", GOOD | {"personal": -0.1}),
    "NaN accuracy": ("bad-metric", GOOD | {"personal": math.nan}),
    "infinite accuracy": ("bad-metric", GOOD | {"personal": math.inf}),
    "a list": ("bad-metric", GOOD | {"personal": [0.5] * 1000}),
    "no image": ("bad-metric", GOOD | {"tested": 0}),
    "fewer than no images": ("bad-metric", GOOD | {"tested": -3}),
    "images without end": ("bad-metric", GOOD | {"tested": math.inf}),
    "more digits than a float has": ("bad-metric", GOOD | {"tested": 10**400}),
    "accuracy alone": ("bad-metric", {"personal": 0.75}),
    "images alone": ("bad-metric", {"tested": 24}),
    "another name": ("wrong-format", {"personal": 0.75, "x" * 10**6: 24}),
    "one more": ("wrong-format", GOOD | {"more": 1}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_figure_drops_the_reply_and_leaves_no_trace(name: str) -> None:
    reason, values = HOSTILE[name]
    honest, attacked = strategy(personal_test=True), strategy(personal_test=True)
    run_rounds(honest, MemoryGrid({client: node(client) for client in range(2)}))
    nodes = {0: node(0), 1: node(1, reporting(**GOOD)), 2: node(2, reporting(**values))}
    (played,) = run_rounds(attacked, MemoryGrid(nodes))
    assert played.tally.failures == {2: reason}
    assert np.array_equal(attacked.theta, honest.theta)
    entry = personal_entry(played.tally)
    assert entry is not None
    assert set(entry["clients"]) == {"1"}


def test_figures_nobody_asked_for_are_refused() -> None:
    (played,) = run_rounds(strategy(), MemoryGrid({0: node(0), 1: node(1), 2: node(2, reporting(**GOOD))}))
    assert played.tally.failures == {2: "wrong-format"}
    heads = strategy(personal_test=True)
    nodes = {0: node(0), 1: node(1), 2: node(2, reporting(**GOOD), kind=HEAD)}
    assert heads.fit_head(MemoryGrid(nodes), timeout=0.3).failures == {2: "wrong-format"}
    with pytest.raises(WrongFormat):
        unpack_update(pack_update({}, METRICS | GOOD), {}, least_examples=0)
    with pytest.raises(WrongFormat):
        unpack_update(pack_update({"payload": b"x"}, METRICS | GOOD), {"payload": Part(10)})


def test_figures_are_those_of_validation() -> None:
    metrics = {0: METRICS | {"personal": 0.9, "tested": 10}, 1: METRICS | {"personal": 0.5, "tested": 2}, 2: METRICS}
    tally = Tally((0, 1, 2), {i: 9 for i in metrics}, {i: 99 for i in metrics}, metrics)
    held_out = Tally((0, 1), {}, {}, {i: METRICS | {"accuracy": value} for i, value in enumerate((0.9, 0.5))})
    entry = personal_entry(tally)
    assert entry is not None
    clients = entry.pop("clients")
    assert entry == fairness(held_out)
    assert clients == {"0": {"accuracy": 0.9, "examples": 10}, "1": {"accuracy": 0.5, "examples": 2}}
    assert personal_entry(held_out) is None


def test_a_person_reads_the_mean(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, 1, RunConfig(personal_test=True).as_dict())
    folder.set_model("letters-vit", b"12345678", (80,))
    folder.set_linear_probe(scored(0.5), Tally((0, 2), {0: 32, 2: 32}), 1.0)
    with_figures = report(1)
    for client, accuracy in ((0, 0.5), (2, 0.625)):
        with_figures.tally.metrics[client] = METRICS | {"personal": accuracy, "tested": 8}
    lines = [round_line(folder.add_round(entry), personal=True) for entry in (with_figures, report(2))]
    assert header(personal=True).split()[:7] == ["round", "mean", "sample", "thresh", "balanced", "personal", "up"]
    assert [line.split()[5] for line in lines] == ["0.5625", "-"]
    assert "personal" not in header()
    assert len(round_line(folder.results["rounds"][0]).split()) == len(lines[0].split()) - 1
    assert "test images: mean 0.5625, worst decile 0.5000" in summary(folder.results, folder.path)


@pytest.mark.parametrize("method", ["deltamask", "fedavg"])
def test_a_whole_run(tmp_path: Path, method: str) -> None:
    config = {"method": method, "personal-test": True, "train-limit": 120, "test-limit": 100, "local-epochs": 1}
    config |= {"num-server-rounds": 3, "eval-every": 2, "masked-blocks": 1, "seed": 5}
    config |= {"partitioner": "pathological", "classes-per-client": 3}
    config |= {"weight-learning-rate": 0.001} if method == "fedavg" else {}
    nodes = [{"partition-id": number, "num-partitions": 2} for number in range(2)]
    results = run_in_process(tmp_path, config, nodes)
    assert results["status"] == "completed"
    first, *others = (entry["personal"] for entry in results["rounds"])
    assert first is None
    for entry in others:
        assert {client: values["examples"] for client, values in entry["clients"].items()} == {"0": 30, "1": 30}
        accuracies = [values["accuracy"] for values in entry["clients"].values()]
        assert entry["mean"] == pytest.approx(np.mean(accuracies))
        assert entry["std"] == pytest.approx(np.std(accuracies))
        assert entry["worst_decile"] == min(accuracies) > 0.6
