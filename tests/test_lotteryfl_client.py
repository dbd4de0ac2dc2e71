"""A client of LotteryFL: what it prunes, trains, sends and keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from common.config.node import parse_node_config
from common.config.run import RunConfig
from common.errors import WrongModel
from common.messages import (
    BALANCED,
    EVALUATE,
    HELLO,
    TRAIN,
    Part,
    Update,
    pack_classes,
    pack_model,
    unpack_hello,
    unpack_update,
)
from common.methods.fedavg.config import WeightTrainingSection
from common.methods.fedavg.payload import weights_digest
from common.methods.fedavg.vector import join_weights, split_weights
from common.methods.lotteryfl.downwards import pack_everything, pack_kept
from common.methods.lotteryfl.ticket import mask_digest, unpack_ticket
from common.models.activations import Activations
from common.models.backbone import load_backbone
from common.models.heads import Head
from common.models.tail_weights import TailWeights
from common.uniforms import stream_seed
from deltamask_client.app import app
from deltamask_client.epochs import Recipe
from deltamask_client.methods.fedavg.training import train_weights
from deltamask_client.methods.lotteryfl.pruning import prune
from deltamask_client.objective import adam, optimiser_of, sgd
from deltamask_client.site import load_site, recipe_of

TAIL = np.linspace(-1, 1, 50, dtype=np.float32)
BASE = b"12345678"


# -- the client

RUN = RunConfig(
    method="lotteryfl",
    train_limit=120,
    local_epochs=1,
    masked_blocks=1,
    validation_fraction=0.0,
    weight_learning_rate=0.001,
    lottery_accuracy=0.0,
    lottery_step=0.3,
    density=0.6,
)


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("letters-vit", "default", 0, 1)


@pytest.fixture(scope="module")
def heads(backbone) -> tuple[Head, Head]:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((2, 10, backbone.features)).astype(np.float32) / 11
    first, now = (Head(weight, np.zeros(10, np.float32)) for weight in weights)
    return first, now


def ask(tmp_path: Path, content: RecordDict, kind: str = TRAIN, run: RunConfig = RUN) -> Message:
    message = Message(content, dst_node_id=1, message_type=kind)
    message.metadata.__dict__["_message_id"] = "m"
    return app(message, Context(7, 0, node_values(tmp_path), RecordDict(), run.as_dict()))


def node_values(tmp_path: Path) -> dict[str, int | str]:
    return {"partition-id": 1, "num-partitions": 4, "cache-dir": str(tmp_path / "cache")}


def training(data: bytes, head: Head | None, server_round: int) -> RecordDict:
    content = pack_classes(tuple("0123456789"))
    content["parts"] = pack_model({"weights": data} | ({} if head is None else {"head": head.to_bytes()}))
    content["round"] = ConfigRecord({"round": server_round, "slot": 0})
    return content


def update_of(reply: Message) -> Update:
    assert not reply.has_error(), reply.error
    return unpack_update(reply.content, {"payload": Part(10**7)})


def evaluated_by(reply: Message) -> Update:
    assert not reply.has_error(), reply.error
    return unpack_update(reply.content, {}, optional=(BALANCED,), least_examples=0)


def expected(tmp_path: Path, backbone, start: np.ndarray, kept: np.ndarray, server_round: int) -> np.ndarray:
    """What training from ``start`` gives, under the mask."""
    config = parse_node_config(node_values(tmp_path))
    site = load_site(RUN, config, tuple("0123456789"))
    tail, head = split_weights(start, 10, backbone.features)
    result = train_weights(
        backbone,
        head,
        site.activations,
        site.labels,
        tail,
        recipe_of(RUN, config, optimiser_of(RUN, RUN[WeightTrainingSection].weight_learning_rate)),
        seed=stream_seed(RUN.rounds.seed, server_round, 1, "train"),
        kept=kept,
    )
    return join_weights(result.tail, result.head)


def test_only_weights_of_layers_may_be_pruned(backbone) -> None:
    masked, tail = TailWeights(backbone).masked, TailWeights(backbone)
    assert masked.sum() == backbone.masks.d
    of_layers = np.concatenate([np.full(p.numel(), p.ndim >= 2) for p in tail.parameters])
    assert np.array_equal(masked, of_layers)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_pruned_weights_stay_at_zero_and_the_others_train_as_if_masked_in_every_step(backbone, optimiser) -> None:
    rng = np.random.default_rng(0)
    activations = Activations(backbone, rng.integers(0, 256, (40, 8, 8), dtype=np.uint8), keep="memory")
    labels, head = rng.integers(0, 3, 40), Head(np.zeros((3, 128), np.float32), np.zeros(3, np.float32))
    tail = TailWeights(backbone)
    frozen = tail.read()
    kept = rng.random(tail.count + 3 * 129) < 0.5
    kept[tail.count :] = True
    start = np.where(kept[: tail.count], frozen, np.float32(0))
    recipe = Recipe(2, 10, sgd(0.01) if optimiser == "sgd" else adam(1e-3))
    found = train_weights(backbone, head, activations, labels, start, recipe, seed=1, kept=kept)
    still = ~kept[: tail.count]
    assert not found.tail[still].any()
    assert (found.tail != start)[~still].mean() > 0.7
    assert np.array_equal(tail.read(), frozen)

    # The other way to hold them: free gradients, and zeros written after every step. No bit of the rest differs.
    written: list[np.ndarray] = []

    def mask(*_: object) -> None:
        written.append(tail.read() * ~still)
        tail.write(written[-1])

    by_hand = train_weights(backbone, head, activations, labels, start, recipe, seed=1, progress=mask)
    assert len(written) == 8
    assert np.array_equal(by_hand.tail[~still], found.tail[~still])
    assert by_hand.head.to_bytes() == found.head.to_bytes()
    # Nothing stays held for whoever trains next.
    free = train_weights(backbone, head, activations, labels, start, recipe, seed=1)
    assert free.tail[still].any()


def test_a_client_that_is_good_enough_prunes_and_goes_back_to_the_start(
    tmp_path: Path, backbone, heads: tuple[Head, Head]
) -> None:
    first, now = heads
    tail = TailWeights(backbone)
    frozen = tail.read()
    moved = (frozen * np.linspace(0.5, 1.5, len(frozen))).astype(np.float32)
    weights = join_weights(moved, now)
    count, prunable = len(weights), np.concatenate([tail.masked, np.ones(1280, np.bool_), np.zeros(10, np.bool_)])
    digest = weights_digest(weights)
    base = join_weights(frozen, first)

    update = update_of(ask(tmp_path, training(pack_everything(moved, first, digest), now, 1)))
    kept, values = unpack_ticket(update.parts["payload"], count, 1, 0, digest)
    assert np.array_equal(kept, prune(weights, np.ones(count, np.bool_), prunable, 0.3, 0.6))
    assert prunable.sum() - (~kept).sum() == np.floor(0.7 * prunable.sum())
    assert np.array_equal(values, expected(tmp_path, backbone, np.where(kept, base, np.float32(0)), kept, 1)[kept])
    assert update.holds == mask_digest(kept)
    hello = unpack_hello(ask(tmp_path, RecordDict(), HELLO).content)
    assert hello.holds == update.holds, "a client that starts again says what it holds"

    # The next round brings what it keeps alone; it prunes once more, down to the density, and then no more.
    second = update_of(ask(tmp_path, training(pack_kept(weights, kept, BASE), None, 2)))
    fewer, values = unpack_ticket(second.parts["payload"], count, 2, 0, BASE)
    assert np.array_equal(fewer, prune(weights, kept, prunable, 0.3, 0.6))
    assert (fewer & prunable).sum() == np.ceil(0.6 * prunable.sum())
    assert np.array_equal(values, expected(tmp_path, backbone, np.where(fewer, base, np.float32(0)), fewer, 2)[fewer])
    third = update_of(ask(tmp_path, training(pack_kept(weights, fewer, BASE), None, 3)))
    same, values = unpack_ticket(third.parts["payload"], count, 3, 0, BASE)
    assert np.array_equal(same, fewer)
    # Without pruning there is no way back: training goes on from the global weights.
    assert np.array_equal(
        values, expected(tmp_path, backbone, np.where(fewer, weights, np.float32(0)), fewer, 3)[fewer]
    )


def test_a_client_that_is_not_good_enough_prunes_nothing(tmp_path: Path, backbone, heads: tuple[Head, Head]) -> None:
    first, now = heads
    frozen = TailWeights(backbone).read()
    run = RUN.replace(lottery_accuracy=0.9, validation_fraction=0.2)
    message = training(pack_everything(frozen, first, BASE), now, 1)
    before = evaluated_by(ask(tmp_path, message, EVALUATE, run))
    assert before.holds is None, "a question gives nobody a mask"
    assert before.examples == 6
    assert before.metrics["accuracy"] < 0.9
    update = update_of(ask(tmp_path, message, run=run))
    kept, _ = unpack_ticket(update.parts["payload"], len(frozen) + 1290, 1, 0, BASE)
    assert kept.all()
    assert evaluated_by(ask(tmp_path, message, EVALUATE, run)).holds == update.holds == mask_digest(kept)


def test_a_client_that_lost_its_mask_says_so_and_starts_from_all_weights(
    tmp_path: Path, backbone, heads: tuple[Head, Head]
) -> None:
    first, now = heads
    frozen = TailWeights(backbone).read()
    everything = training(pack_everything(frozen, first, BASE), now, 1)
    before = update_of(ask(tmp_path, everything))
    weights = join_weights(frozen, now)
    kept, _ = unpack_ticket(before.parts["payload"], len(weights), 1, 0, BASE)
    # Another mask than its own, as after a reply that was lost: it does not guess.
    other = kept.copy()
    other[-1] = False
    refusal = ask(tmp_path, training(pack_kept(weights, other, BASE), None, 2))
    assert refusal.error.reason.startswith(WrongModel.__name__)

    (path,) = (tmp_path / "cache" / "tickets").iterdir()
    for loss in (lambda: path.write_bytes(b"damaged"), path.unlink):
        loss()
        assert unpack_hello(ask(tmp_path, RecordDict(), HELLO).content).holds is None
        refusal = ask(tmp_path, training(pack_kept(weights, kept, BASE), None, 2))
        assert refusal.error.reason.startswith(WrongModel.__name__)
        assert update_of(ask(tmp_path, everything)).parts["payload"] == before.parts["payload"]
    # All weights under a mask that it does not remember having: the head to go back to is missing.
    path.unlink()
    refusal = ask(tmp_path, training(pack_kept(weights, np.ones(len(weights), np.bool_), BASE), None, 2))
    assert refusal.error.reason.startswith(WrongModel.__name__)
    # A file system that takes nothing costs bytes in the next round, no more.
    (tmp_path / "cache" / "tickets").rmdir()
    (tmp_path / "cache" / "tickets").write_text("in the way")
    update = update_of(ask(tmp_path, everything))
    assert update.parts["payload"] == before.parts["payload"]
    assert update.holds is None
