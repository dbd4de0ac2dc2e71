"""HideNseek's server: majority, memory, ties, and what a reply may not do; whole runs in one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message

from common.downlink import apply_chain
from common.messages import HELLO, Hello, pack_hello, pack_update, unpack_round
from common.methods.fedavg.payload import pack_empty, pack_weights
from common.methods.hidenseek.signs import SIGNS, SignState, encode_signs, on_grid
from common.models.backbone import load_backbone
from common.models.heads import Head
from common.models.heads.random_head import RandomHead
from common.theta import Version
from deltamask_server.closing import Closing
from deltamask_server.enrolment import Enrolment
from deltamask_server.methods.hidenseek.strategy import HideNseek
from deltamask_server.tools.finetuned import load_finetuned
from tests.e2e.in_process import run_in_process
from tests.federation import METRICS
from tests.grid import MemoryGrid, Node, answer

CLASSES, SEED, DIGEST = 3, 9, b"12345678"


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("letters-vit", "default", 0, 1)


def hidenseek(backbone, quorum: int = 1, **options) -> HideNseek:
    enrolment = Enrolment(DIGEST, backbone.masks.d, min_clients=quorum, wait_seconds=0.2, say=lambda line: None)
    kept = np.random.default_rng(0).random(backbone.masks.d + CLASSES * backbone.features) < 0.2
    shape = {"classes": CLASSES, "features": backbone.features, "head_kind": RandomHead()}
    return HideNseek(enrolment, backbone=backbone, kept=kept, closing=Closing(quorum), seed=SEED, **shape, **options)


def node(strategy: HideNseek, client: int, signs: list[np.ndarray], examples: int = 10) -> Node:
    """A client that answers its rounds with these signs."""
    held: list[Version | None] = [None]

    def handle(message: Message) -> list[Message]:
        if message.metadata.message_type == HELLO:
            return [answer(message, pack_hello(Hello(client, DIGEST, strategy._network._masks.d)))]
        parts = message.content.array_records["parts"]
        assert ("subnetwork" in parts) == (held[0] is None), "it travels once"
        segments = strategy._subnetwork.kept_segments
        version = held[0] = apply_chain(parts["signs"].data, held[0], strategy.n, SEED, segments)
        server_round, slot = unpack_round(message.content)
        shared = SignState.of(version, SEED, server_round, slot, segments)
        payload = {"payload": encode_signs(signs[server_round - 1], shared, "exact")}
        return [answer(message, pack_update(payload, METRICS | {"examples": examples}, version.digest))]

    return handle


def play(strategy: HideNseek, nodes: dict[int, Node], rounds: int = 1) -> list:
    reports: list = []
    strategy.start(MemoryGrid(nodes), strategy.arrays(), strategy.server_round + rounds, 0.3, on_round=reports.append)
    return reports


def random_signs(strategy: HideNseek, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(strategy.n) < 0.5


def test_the_majority_by_examples_decides_whoever_answers_first(backbone) -> None:
    found = []
    for ids in ([1, 2, 3], [30, 20, 10]):
        strategy = hidenseek(backbone)
        signs = [random_signs(strategy, client) for client in range(3)]
        weights = [5, 4, 2]
        nodes = {number: node(strategy, client, [signs[client]], weights[client]) for client, number in enumerate(ids)}
        play(strategy, nodes)
        found.append(strategy.positive)
    votes = sum(w * np.where(s, 1, -1) for w, s in zip(weights, signs, strict=True))
    assert np.array_equal(found[0], votes > 0)
    assert np.array_equal(found[0], found[1])


def test_each_client_counts_once_if_asked_and_ties_keep_the_old_sign(backbone) -> None:
    strategy = hidenseek(backbone, by_examples=False)
    signs = [random_signs(strategy, client) for client in range(2)]
    play(strategy, {client: node(strategy, client, [signs[client]], 1 + 50 * client) for client in range(2)})
    tied = signs[0] != signs[1]
    assert 0.4 < tied.mean() < 0.6
    found = strategy.positive
    assert found[tied].all(), "the first signs are all +1"
    assert np.array_equal(found[~tied], signs[0][~tied])


def test_the_moving_average_remembers(backbone) -> None:
    signs: list[np.ndarray] = []
    ends = []
    for momentum in (0.0, 0.8):
        strategy = hidenseek(backbone, momentum=momentum)
        signs = [random_signs(strategy, number) for number in range(3)]
        play(strategy, {0: node(strategy, 0, signs)}, rounds=3)
        ends.append(strategy.positive)
    first, second, third = (np.where(s, 1, -1) for s in signs)
    assert np.array_equal(ends[0], signs[2])
    assert np.array_equal(ends[1], 0.2 * (third + 0.8 * second + 0.64 * first) + 0.512 > 0)


def test_less_than_a_majority_turns_a_sign_if_asked(backbone) -> None:
    turned = {}
    for share in (0.25, 0.2, 0.5):
        strategy = hidenseek(backbone, turn_share=share)
        signs = [np.ones(strategy.n, np.bool_) for _ in range(4)]
        signs[0][:100] = signs[1][50:150] = False
        nodes = {client: node(strategy, client, [signs[client]], 10) for client in range(4)}
        play(strategy, nodes)
        turned[share] = np.flatnonzero(~strategy.positive)
    assert np.array_equal(turned[0.25], np.arange(50, 100)), "a quarter is not more than a quarter"
    assert np.array_equal(turned[0.2], np.arange(150))
    assert len(turned[0.5]) == 0


def test_a_client_that_holds_signs_is_sent_flips_only(backbone) -> None:
    strategy = hidenseek(backbone)
    base = np.ones(strategy.n, np.bool_)
    base[::50] = False
    reports = play(strategy, {0: node(strategy, 0, [base, base, base])}, rounds=3)
    first, second, third = (sum(report.downlink_bytes.values()) for report in reports)
    assert first > strategy.n / 8 * 0.5
    assert second < 0.3 * strategy.n / 8
    assert third <= second


@pytest.mark.parametrize("bad", ["other-round", "scores", "truncated", "too many examples", "no examples", "nothing"])
def test_a_bad_reply_is_dropped_and_the_rest_counts(backbone, bad: str) -> None:
    strategy = hidenseek(backbone)
    good = random_signs(strategy, 1)
    examples = {"too many examples": 10**9, "no examples": 0}

    def hostile(message: Message) -> list[Message]:
        if message.metadata.message_type == HELLO:
            return [answer(message, pack_hello(Hello(1, DIGEST, backbone.masks.d)))]
        server_round, slot = unpack_round(message.content)
        shared = SignState(on_grid(strategy.positive), SEED, server_round + (bad == "other-round"), slot)
        payload = encode_signs(~good, shared, "exact")
        if bad == "scores":
            payload = pack_weights(np.ones(strategy.n, np.float32), server_round, slot, strategy.digest, SIGNS)
        elif bad == "truncated":
            payload = payload[:-4]
        elif bad == "nothing":
            payload = pack_empty(SIGNS, server_round, slot)
        return [answer(message, pack_update({"payload": payload}, METRICS | {"examples": examples.get(bad, 99)}))]

    (report,) = play(strategy, {0: node(strategy, 0, [good]), 1: hostile})
    assert set(report.tally.failures) == {1}
    assert np.array_equal(strategy.positive, good)


def test_the_pruned_network_is_the_same_for_all_and_its_head_belongs_to_it(backbone) -> None:
    one, two = hidenseek(backbone), hidenseek(backbone)
    assert one._packed == two._packed
    assert one.segments(backbone) == (*backbone.masks.segments, CLASSES * backbone.features)
    assert one.n == int(one._subnetwork.kept.sum())


CONFIG = {
    "method": "hidenseek", "backbone": "lenet", "masked-blocks": 0, "head": "random", "density": 0.3, "prune-passes": 5,
    "train-limit": 300, "test-limit": 100, "local-epochs": 2, "num-server-rounds": 3, "sign-learning-rate": 0.02,
}  # fmt: skip
NODES = [{"partition-id": number, "num-partitions": 2} for number in range(2)]


def test_a_whole_run_learns_and_its_export_predicts(tmp_path: Path) -> None:
    results = run_in_process(tmp_path, CONFIG | {"sign-magnitudes": "constant"}, NODES)
    assert results["status"] == "completed"
    model = results["model"]
    d, n = model["masked_parameters"], model["kept_parameters"]
    assert n == round(0.3 * d)
    for entry in results["rounds"]:
        bits = [8 * size for size in entry["uplink"]["payload_bytes"].values()]
        assert max(bits) <= n + 8 * 34
        assert entry["uplink"]["bpp"] <= 0.31
    assert results["linear_probe"]["uplink"]["payload_bytes"] == {}
    assert results["rounds"][-1]["accuracy"]["mean"] > 0.25

    from typer.testing import CliRunner

    from deltamask_server.tools.cli import app

    done = CliRunner().invoke(app, ["export", str(tmp_path / "runs" / "latest")])
    assert done.exit_code == 0, done.output
    module = load_finetuned(tmp_path / "runs" / "latest" / "signs.safetensors")
    from sklearn.datasets import load_digits

    from common.models.preprocess import preprocess

    backbone = load_backbone("lenet", "default", 0, 0)
    images, labels = load_digits(return_X_y=True)
    pixels = np.minimum(images * 16, 255).astype(np.uint8).reshape(-1, 8, 8)[-450:]
    chosen = np.sort(np.concatenate([np.flatnonzero(labels[-450:] == c)[:10] for c in range(10)]))
    with torch.no_grad():
        found = module(preprocess(pixels[chosen], backbone.spec)).argmax(1).numpy()
    accuracy = float((found == labels[-450:][chosen]).mean())
    assert accuracy == pytest.approx(results["rounds"][-1]["accuracy"]["mean"], abs=0.02)


@pytest.mark.parametrize(
    "change", [{"upload": "scores"}, {"local-only": True}, {"sign-codec": "fuse8", "validation-fraction": 0.2}]
)
def test_its_ablations_run(tmp_path: Path, change: dict) -> None:
    results = run_in_process(tmp_path, CONFIG | {"num-server-rounds": 2} | change, NODES)
    assert results["status"] == "completed"
    rounds = results["rounds"]
    assert rounds[-1]["clients"]["ok"] == 2
    if "upload" in change:
        assert rounds[0]["uplink"]["bpp"] == pytest.approx(32 * 0.3, rel=0.01)
        assert rounds[0]["digest"] != rounds[1]["digest"]
    if "local-only" in change:
        assert set(rounds[-1]["uplink"]["payload_bytes"].values()) == {34}
        assert rounds[0]["digest"] == rounds[1]["digest"]
        assert rounds[1]["train"]["loss"] < rounds[0]["train"]["loss"], "clients go on from their own signs"


def test_a_pretrained_backbone_keeps_its_function_at_the_start(tmp_path: Path) -> None:
    config = {"method": "hidenseek", "density": 1.0, "head": "ridge", "masked-blocks": 2, "train-limit": 200}
    config |= {"test-limit": 100, "num-server-rounds": 1, "local-epochs": 1, "sign-learning-rate": 1e-6}
    results = run_in_process(tmp_path, config, NODES)
    assert results["rounds"][0]["accuracy"]["mean"] == pytest.approx(results["linear_probe"]["accuracy"], abs=0.02)
    assert isinstance(Head, type)


def test_scores_that_travel_start_at_the_size_that_training_can_turn(backbone) -> None:
    strategy = hidenseek(backbone, upload="scores", score_init=0.2)
    scores = np.frombuffer(strategy.parts(None)["scores"], "<f4")
    assert len(scores) == strategy.n
    assert 0 < scores.min() < 0.01
    assert 0.19 < scores.max() <= np.float32(0.2)
