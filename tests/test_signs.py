"""Signs: as a global model, as payloads, as a subnetwork, and as what a client trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.codecs import codec_of, get_codec
from common.errors import ChecksumMismatch, PayloadError, TruncatedPayload, WrongFormat, WrongModel
from common.methods.hidenseek.sign_network import SignNetwork, network_segments, network_weights
from common.methods.hidenseek.signs import SIGNS, SignState, encode_signs, initial_scores, on_grid, positive_signs
from common.methods.hidenseek.subnetwork import Subnetwork
from common.models.activations import Activations
from common.models.backbone import load_backbone
from common.models.heads import Head
from common.models.heads.random_head import RandomHead
from common.models.masking import SignMask
from common.wire import read_header
from deltamask_client.epochs import Recipe
from deltamask_client.methods.hidenseek.training import train_signs
from deltamask_client.objective import adam

CLASSES = 3


def state(positive: np.ndarray, **where: int) -> SignState:
    place = {"seed": 1, "round": 2, "slot": 3} | where
    return SignState(on_grid(positive), **place)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5_000), st.floats(0, 1), st.sampled_from(["exact", "bits", "bitmap"]), st.integers(0, 2**32))
def test_signs_of_any_length_survive(n: int, share: float, codec: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = rng.random(n) < 0.5
    after = before ^ (rng.random(n) < share)
    shared = state(before)
    payload = encode_signs(after, shared, codec)
    assert np.array_equal(codec_of(payload).decode(payload, shared), after)
    assert len(payload) <= len(get_codec("bits").encode(after.astype(np.float32), shared))
    assert read_header(payload)[0].method == SIGNS


def test_what_is_shorter_is_sent_and_the_header_says_which() -> None:
    rng = np.random.default_rng(1)
    before = rng.random(20_000) < 0.5
    few, half = before ^ (rng.random(20_000) < 0.02), rng.random(20_000) < 0.5
    assert codec_of(encode_signs(few, state(before), "exact")).name == "exact"
    assert codec_of(encode_signs(half, state(before), "exact")).name == "bits"
    entropy = -0.02 * np.log2(0.02) - 0.98 * np.log2(0.98)
    assert 8 * len(encode_signs(few, state(before), "exact")) / 20_000 < 1.05 * entropy + 0.03


def test_a_filter_of_flips_is_wrong_about_once_in_256() -> None:
    rng = np.random.default_rng(2)
    before = rng.random(200_000) < 0.5
    after = before ^ (rng.random(200_000) < 0.01)
    payload = encode_signs(after, state(before), "fuse8")
    wrong = codec_of(payload).decode(payload, state(before)) != after
    assert codec_of(payload).name == "fuse8"
    assert not wrong[before != after].any()
    assert 0.8 / 256 < wrong.mean() < 1.2 / 256


def test_payloads_of_masks_are_none_of_signs() -> None:
    positive = np.random.default_rng(3).random(1000) < 0.5
    shared = state(positive)
    from common.codecs import SharedState

    as_mask = SharedState(shared.theta, seed=1, round=2, slot=3)
    payload = get_codec("exact").encode(positive.astype(np.float32), as_mask)
    with pytest.raises(WrongFormat):
        get_codec("exact").decode(payload, shared)


def test_bits_refuse_what_no_encoder_writes() -> None:
    positive = np.ones(13, np.bool_)
    shared = state(positive)
    payload = get_codec("bits").encode(positive.astype(np.float32), shared)
    assert len(payload) == 34 + 2
    for damaged in (payload[:-1], payload + b"\0", payload[:-1] + b"\xff"):
        with pytest.raises((ChecksumMismatch, TruncatedPayload)):
            get_codec("bits").decode(damaged, shared)


def subnetwork(d: tuple[int, ...] = (900, 100), density: float = 0.3, seed: int = 0) -> Subnetwork:
    return Subnetwork(np.random.default_rng(seed).random(sum(d)) < density, d)


def test_a_subnetwork_travels_with_the_digest_of_its_weights() -> None:
    sub = subnetwork()
    weights = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
    data = sub.to_bytes(sub.prepare(weights, "own"))
    found, prepared = Subnetwork.from_bytes(data, weights, sub.segments, "own")
    assert np.array_equal(found.kept, sub.kept)
    assert np.array_equal(prepared, sub.prepare(weights, "own"))
    assert not prepared[~sub.kept].any()
    other = weights.copy()
    other[np.flatnonzero(sub.kept)[5]] += 1
    with pytest.raises(WrongModel, match="digest"):
        Subnetwork.from_bytes(data, other, sub.segments, "own")
    with pytest.raises(WrongModel, match="digest"):
        Subnetwork.from_bytes(data, weights, sub.segments, "constant")
    for damaged in (b"", data[:7], data[:-1], data[:40] + bytes([data[40] ^ 1]) + data[41:]):
        with pytest.raises(PayloadError):
            Subnetwork.from_bytes(damaged, weights, sub.segments, "own")
    sub.kept[:900] = False
    with pytest.raises(WrongModel, match="no weight of masked tensor 0"):
        Subnetwork.from_bytes(bytes(8) + sub.to_bytes(weights)[8:], weights, sub.segments, "own")


def test_a_layer_keeps_the_size_of_its_output() -> None:
    sub = subnetwork((50_000, 50_000), 0.1)
    weights = np.random.default_rng(1).standard_normal(100_000).astype(np.float32)
    for magnitudes in ("own", "constant"):
        prepared = sub.prepare(weights, magnitudes)
        for part, whole in zip(np.split(prepared, 2), np.split(weights, 2), strict=True):
            assert np.linalg.norm(part) == pytest.approx(np.linalg.norm(whole), rel=0.03)
    assert len(np.unique(np.abs(sub.prepare(weights, "constant")))) == 3, "0, and one size for each layer"
    assert np.array_equal(np.sign(sub.prepare(weights, "constant")), np.sign(weights) * sub.kept)


def test_the_sign_of_zero_is_plus_and_pruned_weights_get_no_gradient() -> None:
    score = torch.tensor([0.0, -0.0, 2.0, -3.0, 1.0], requires_grad=True)
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.0])
    sign = (score.detach() >= 0).to(torch.int8) * 2 - 1
    out = SignMask.apply(score, weight, sign)
    assert out.tolist() == [1, 2, 3, -4, 0]
    out.sum().backward()
    assert score.grad is not None
    assert score.grad.tolist() == [1, 2, 3, 4, 0]


@pytest.fixture(scope="module")
def problem():
    backbone = load_backbone("letters-vit", "default", 0, 2)
    rng = np.random.default_rng(0)
    activations = Activations(backbone, rng.integers(0, 256, (48, 8, 8), dtype=np.uint8), keep="memory")
    return backbone, activations, rng.integers(0, CLASSES, 48)


def test_training_turns_signs_of_kept_weights_only(problem) -> None:
    backbone, activations, labels = problem
    head = RandomHead().start(CLASSES, backbone.features, 1)
    segments = network_segments(backbone, head)
    sub = Subnetwork(np.random.default_rng(0).random(sum(segments)) < 0.5, segments)
    weights = network_weights(backbone, head)
    assert len(weights) == sum(segments) == backbone.masks.d + head.weight.size
    network = SignNetwork(backbone, sub, sub.prepare(weights, "own"))
    start = initial_scores(np.ones(sub.n, np.bool_), 0.1, 1, 1, 0)

    def train(epochs: int):
        return train_signs(backbone, network, head, activations, labels, start, Recipe(epochs, 16, adam(0.01)), seed=1)

    one, eight = train(1), train(8)
    assert eight.fit.loss < one.fit.loss
    assert 0.01 < (~eight.positive).mean() < 0.5
    assert np.array_equal(train(1).scores, one.scores), "equal seeds, equal scores"
    # Scores that belong to pruned weights never moved, and the frozen weights are what they were.
    scores = torch.cat([mask.score.detach().flatten() for mask in backbone.masks._masks]).numpy()
    assert not scores[~sub.kept[: backbone.masks.d]].any()
    assert np.array_equal(network_weights(backbone, head), weights)
    # What a server evaluates by signs alone is what the client trained.
    logits = network.logits(backbone.tail(activations.batch(np.arange(4))))
    network.load(head, np.where(train(1).positive, np.float32(1), np.float32(-1)))
    assert torch.equal(network.logits(backbone.tail(activations.batch(np.arange(4)))), logits)


def test_a_fitted_head_has_no_signs(problem) -> None:
    backbone, activations, _ = problem
    head = Head(np.full((CLASSES, backbone.features), 0.5, np.float32), np.arange(CLASSES, dtype=np.float32))
    sub = Subnetwork(np.ones(backbone.masks.d, np.bool_), backbone.masks.segments)
    network = SignNetwork(backbone, sub, sub.prepare(network_weights(backbone, None), "own"))
    network.load(head, np.ones(sub.n, np.float32))
    tokens = activations.batch(np.arange(3))
    plus = network.logits(backbone.tail(tokens)).detach()
    backbone.masks.unmask()
    torch.testing.assert_close(plus, head(backbone.tail(tokens)))
    assert len(network.parameters()) == len(backbone.masks.parameters())


def test_initial_scores_have_the_global_sign_and_sizes_of_their_own() -> None:
    positive = np.random.default_rng(0).random(10_000) < 0.5
    scores = initial_scores(positive, 0.2, 1, 2, 3)
    assert np.array_equal(scores > 0, positive)
    assert 0 < np.abs(scores).min() <= np.abs(scores).max() <= np.float32(0.2)
    assert np.abs(scores).mean() == pytest.approx(0.1, rel=0.05)
    assert np.array_equal(scores, initial_scores(positive, 0.2, 1, 2, 3))
    assert not np.array_equal(scores, initial_scores(positive, 0.2, 1, 2, 4))
    assert np.array_equal(positive_signs(on_grid(positive)), positive)
