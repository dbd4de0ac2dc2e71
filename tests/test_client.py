"""The ClientApp, called as Flower calls it, and local training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from common.codecs import SharedState, get_codec
from common.config import NodeConfig, RunConfig
from common.downlink import join_chain, pack_quantised
from common.messages import HEAD, HELLO, TRAIN, pack_global, unpack_hello, unpack_update
from common.models import Head, get_head, load_backbone
from common.theta import quantise
from deltamask_client.app import _codec, app
from deltamask_client.training import train_masks

CONFIG = RunConfig(train_limit=200, local_epochs=1, head_epochs=20, masked_blocks=2)


def context(tmp_path: Path, run: RunConfig = CONFIG, **node: int | str) -> Context:
    node_config = {"partition-id": 1, "num-partitions": 4, "cache-dir": str(tmp_path / "cache")} | node
    return Context(0, 0, node_config, RecordDict(), run.model_dump(by_alias=True))


def ask(kind: str, content: RecordDict | None = None) -> Message:
    message = Message(content or RecordDict(), dst_node_id=1, message_type=kind)
    message.metadata.__dict__["_message_id"] = "m"
    return message


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("letters-vit", "default", 0, 2)


def test_hello_names_client_and_model(tmp_path: Path, backbone) -> None:
    hello = unpack_hello(app(ask(HELLO), context(tmp_path)).content)
    assert (hello.client, hello.backbone_digest, hello.masked_parameters) == (1, backbone.digest, backbone.masks.d)


def test_head_then_training_round(tmp_path: Path, backbone) -> None:
    reply = app(ask(HEAD), context(tmp_path))
    update = unpack_update(reply.content, 10**6)
    assert update.examples == 50
    head = Head.from_bytes(update.payload, 10, backbone.features)

    d = backbone.masks.d
    theta = np.full(d, quantise(0.95))
    content = RecordDict(
        {
            "arrays": pack_global(join_chain([pack_quantised(theta, backbone.masks.segments)]), head),
            "round": ConfigRecord({"round": 2, "slot": 5}),
        }
    )
    first = unpack_update(app(ask(TRAIN, content), context(tmp_path)).content, 10**6)
    shared = SharedState(theta, CONFIG.seed, 2, 5)
    mask = get_codec("fuse8").decode(first.payload, shared)
    flipped = (mask != shared.mask()).mean()
    assert 0 < flipped < 0.2
    assert 8 * len(first.payload) / d < 0.5

    # A new process, or a simulation worker that served others in between, sends the same bytes.
    app(ask(TRAIN, content), context(tmp_path, **{"partition-id": 0}))
    again = unpack_update(app(ask(TRAIN, content), context(tmp_path)).content, 10**6)
    assert again.payload == first.payload


@pytest.mark.parametrize("kind", ["ridge", "mean"])
def test_the_head_is_measured_as_the_run_says_and_trained_in_its_last_rounds(
    tmp_path: Path, backbone, kind: str
) -> None:
    run = CONFIG.model_copy(update={"head": kind, "num_server_rounds": 3, "head_finetune_rounds": 1})
    reply = unpack_update(app(ask(HEAD), context(tmp_path, run)).content, 10**6)
    get_head(kind).check(reply.payload, 10, backbone.features, reply.examples)
    head = get_head(kind).combine([(reply.payload, reply.examples)], 10, backbone.features)
    assert reply.metrics["accuracy"] > 0.8, "the accuracy of this client's own head"

    theta = np.full(backbone.masks.d, quantise(0.95))
    arrays = pack_global(join_chain([pack_quantised(theta, backbone.masks.segments)]), head)

    def train(server_round: int) -> bytes | None:
        content = RecordDict({"arrays": arrays, "round": ConfigRecord({"round": server_round, "slot": 0})})
        return unpack_update(app(ask(TRAIN, content), context(tmp_path, run)).content, 10**6, server_round == 3).head

    assert train(2) is None
    trained = train(3)
    assert trained is not None
    moved = np.abs(Head.from_bytes(trained, 10, backbone.features).weight - head.weight)
    assert 0 < moved.max() < 0.1
    assert train(3) == trained, "the same seed must give the same bytes"


def test_errors_reach_the_server_without_paths_or_data(tmp_path: Path) -> None:
    secret = tmp_path / "patients.npz"
    reply = app(ask(HEAD), context(tmp_path, CONFIG.model_copy(update={"dataset": f"npz:{secret}"})))
    assert reply.has_error()
    assert reply.error.reason == "DataError; see the log of this SuperNode"
    assert app(ask(HELLO), context(tmp_path, **{"partition-id": 9})).error.reason.startswith("ConfigError")


def test_relative_weighs_candidates_where_the_client_trains() -> None:
    run = RunConfig(codec="relative")
    for device, expected in (("cpu", None), ("cuda:1", "cuda:1")):
        node = NodeConfig.model_validate({"partition-id": 0, "num-partitions": 1, "device": device})
        assert _codec(run, node, 1).device == expected


def test_training_lowers_the_loss_and_touches_scores_only(tmp_path: Path, backbone) -> None:
    rng = np.random.default_rng(0)
    activations = torch.randn(64, 17, 128, generator=torch.Generator().manual_seed(0)).numpy()
    labels = rng.integers(0, 3, 64)
    head = Head(rng.standard_normal((3, 128)).astype(np.float32) / 11, np.zeros(3, np.float32))
    theta = np.full(backbone.masks.d, quantise(0.95))
    frozen = {name: value.clone() for name, value in backbone.tail.state_dict().items() if "score" not in name}

    def train(epochs: int, seed: int = 1):
        return train_masks(
            backbone, head, activations, labels, theta, epochs=epochs, batch_size=16, learning_rate=0.1, seed=seed
        )

    one, five = train(1), train(5)
    assert five.loss < 0.8 * one.loss
    assert five.accuracy > one.accuracy
    assert five.theta.dtype == np.float32
    assert 0 <= five.theta.min() <= five.theta.max() <= 1
    assert np.array_equal(train(1).theta, one.theta), "the same seed must give the same bits"
    assert not np.array_equal(train(1, seed=2).theta, one.theta)
    for result in (one, five):
        assert result.head.to_bytes() == head.to_bytes()
    now = backbone.tail.state_dict()
    assert all(torch.equal(now[name], value) for name, value in frozen.items())
