"""Which weights pruning leaves, and what would go wrong if it were done otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import ConfigError, ModelError
from common.methods.hidenseek.signed_constant import kept_factors, signed_constants
from common.models.backbone import Network, build_parts
from common.models.families import ModelSplit
from common.models.input_spec import InputSpec
from common.models.maskable import masked_tensors
from common.models.plain_cnn import kaiming_uniform
from common.models.presets import PLAIN
from common.uniforms import stream_key
from deltamask_server.methods.hidenseek.synflow import OpenAttention, prune

CLASSES = 10


def parts_of(*layers: nn.Module, channels: int = 1, size: int = 1) -> Network:
    """A network of which all is the tail."""
    model = nn.Sequential(*layers).requires_grad_(False).eval()
    spec = InputSpec(channels, size, (0.5,) * channels, (0.5,) * channels)
    blocks = tuple((str(i), layer) for i, layer in enumerate(layers))
    split = ModelSplit(nn.Identity(), model, blocks, len(layers), 0)
    return Network(model, spec, split, masked_tensors(blocks))


def linear(*weights: np.ndarray) -> Network:
    """Linear maps with ReLU between, on vectors of the first one's length."""
    layers: list[nn.Module] = [nn.Flatten()]
    for weight in weights:
        layer = nn.Linear(*reversed(weight.shape), bias=False)
        layer.weight.data = torch.from_numpy(weight.astype(np.float32))
        layers += [layer, nn.ReLU()]
    return parts_of(*layers, channels=weights[0].shape[1])


def head_of(features: int, seed: int = 0) -> np.ndarray:
    return kaiming_uniform(stream_key(seed, 0, 0, "a head"), (CLASSES, features))


def sizes(parts: Network) -> list[int]:
    return [int(np.prod(tensor.shape)) for tensor in parts.tensors]


def written_out(weights: list[np.ndarray], density: float, passes: int) -> np.ndarray:
    """Synaptic flow of linear maps: to a weight from the input, times itself, times from there to the outputs."""
    magnitudes = [np.abs(weight.astype(np.float64)) for weight in weights]
    kept = [np.ones(weight.shape, bool) for weight in weights]
    d = sum(weight.size for weight in weights)
    for i in range(1, passes + 1):
        present = [m * k for m, k in zip(magnitudes, kept, strict=True)]
        scores = []
        for number, weight in enumerate(present):
            into = np.ones(weights[0].shape[1])
            for below in present[:number]:
                into = below @ into
            out = np.ones(weights[-1].shape[0])
            for above in reversed(present[number + 1 :]):
                out = above.T @ out
            scores.append(out[:, None] * weight * into)
        flat = np.concatenate([np.where(k, s, -1).ravel() for k, s in zip(kept, scores, strict=True)])
        flat = np.array([float(f"{score:.6e}") for score in flat])  # equal but for rounding is equal
        chosen = np.zeros(d, bool)
        chosen[np.argsort(-flat, kind="stable")[: round(density ** (i / passes) * d)]] = True
        split = np.split(chosen, np.cumsum([weight.size for weight in weights])[:-1])
        kept = [part.reshape(weight.shape) for part, weight in zip(split, weights, strict=True)]
    return np.concatenate([k.ravel() for k in kept])


@pytest.mark.parametrize("passes", [1, 7, 100])
@pytest.mark.parametrize("seed", [1, 2])
def test_it_is_the_algorithm_of_the_paper(passes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in [(12, 9), (8, 12), (5, 8)]]
    expected = written_out(weights, 0.3, passes)
    assert np.array_equal(prune(linear(*weights), 0.3, passes), expected)
    # The last map may as well be the head.
    assert np.array_equal(prune(linear(*weights[:2]), 0.3, passes, weights[2]), expected)


@pytest.mark.parametrize(
    ("name", "size", "passes"), [("lenet", 28, 100), ("conv4", 16, 10), ("conv6", 16, 10)], ids=PLAIN
)
@pytest.mark.parametrize("density", [0.02, 0.1, 0.5])
def test_the_count_is_exact_and_no_layer_is_empty(name: str, size: int, passes: int, density: float) -> None:
    parts = build_parts(name, "random:1", size, 0)
    head = head_of(parts.split.features)
    kept = prune(parts, density, passes, head)
    segments = [*sizes(parts), head.size]
    assert (kept.dtype, kept.shape) == (bool, (sum(segments),))
    assert kept.sum() == round(density * len(kept))
    assert kept_factors(kept, segments).min() >= 1  # raises if a layer is empty


def test_conv4_at_two_per_cent_in_a_hundred_passes() -> None:
    parts = build_parts("conv4", "random:1", 32, 0)
    kept = prune(parts, 0.02)
    assert kept.sum() == round(0.02 * 2_422_464)
    assert kept_factors(kept, sizes(parts)).min() >= 1


def test_what_is_left_carries_signal_from_every_pixel_to_every_class() -> None:
    parts = build_parts("lenet", "random:1", 0, 0)
    head = head_of(84)
    kept = prune(parts, 0.02, 100, head)
    *masks, head_mask = np.split(kept, np.cumsum(sizes(parts)))
    with torch.no_grad():
        for tensor, mask in zip(parts.tensors, masks, strict=True):
            getattr(tensor.module, tensor.attribute).abs_().mul_(torch.from_numpy(mask).view(tensor.shape))
    images = torch.zeros(28 * 28, 1, 28, 28)
    images.view(28 * 28, -1).fill_diagonal_(1.0)
    logits = parts.split.tail(images) @ torch.from_numpy(np.abs(head) * head_mask.reshape(head.shape)).T
    assert (logits.sum(0) > 0).all()
    assert (logits.sum(1) > 0).float().mean() > 0.9


@pytest.mark.parametrize("name", ["lenet", "conv4"])
def test_one_pass_empties_a_layer_and_that_is_said(name: str) -> None:
    parts = build_parts(name, "random:1", 0, 0)
    with pytest.raises(ModelError, match=r"none of the [\d,]+ weights of blocks.*density = 0.02, passes = 1: raise"):
        prune(parts, 0.02, 1)
    assert prune(parts, 0.5, 1).sum() == round(0.5 * sum(sizes(parts)))


def test_a_network_without_any_path_is_refused() -> None:
    # One hidden unit has a single way in and ten out, the other ten in and a single one out: the two single ones have
    # the highest scores, and do not meet.
    first, second = np.zeros((2, 10)), np.zeros((10, 2))
    first[0, 0], first[1], second[:, 0], second[0, 1] = 1, 1, 1, 1
    with pytest.raises(ModelError, match="no path from the input to any output"):
        prune(linear(first, second), 0.05, 1)
    assert prune(linear(first, second), 0.05, 100).sum() == 2


def test_density_one_keeps_everything_and_computes_nothing() -> None:
    class Untouchable(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise AssertionError("nothing is to be computed")

    parts = parts_of(Untouchable(3, 2))
    assert prune(parts, 1.0).tolist() == [True] * 6
    assert prune(parts, 1, 1, np.ones((4, 2), np.float32)).tolist() == [True] * 14
    with pytest.raises(AssertionError):
        prune(parts, 0.999)


@pytest.mark.parametrize(("density", "passes"), [(0, 1), (-0.1, 1), (1.01, 1), (float("nan"), 1), (0.5, 0)])
def test_densities_and_passes_out_of_range(density: float, passes: int) -> None:
    with pytest.raises(ConfigError, match="density must be in"):
        prune(linear(np.ones((2, 2))), density, passes)


def test_ties_go_to_the_lower_position_and_pruned_weights_stay_pruned() -> None:
    assert prune(linear(np.ones((4, 3))), 0.5, 1).tolist() == [True] * 6 + [False] * 6
    # What follows the first weight goes nowhere: its score is 0.
    dead = linear(np.array([[9.0], [1.0]]), np.array([[0.0, 1.0], [0.0, 2.0]]))
    assert prune(dead, 0.5, 1).tolist() == [False, True, False, True, False, True]
    assert prune(dead, 4 / 6, 1).tolist() == [True, True, False, True, False, True]
    # The first weight goes in the first pass; what follows the second goes in the next, and leaves it with score 0.
    later = linear(np.array([[1.0, 1.5], [10.0, 10.0]]), np.array([[1.0, 1.0]]))
    assert prune(later, 0.6, 3).tolist() == [False, True, True, True, False, True]


def test_weights_on_a_path_without_branches_tie_although_they_are_rounded() -> None:
    rng = np.random.default_rng(3)
    chain = [rng.random((1, 1)) for _ in range(40)]
    with pytest.raises(ModelError, match=r"none of the 1 weights of 21\.weight"):  # the first ten of forty are kept
        prune(linear(*chain), 0.25, 1)


def test_norms_biases_and_dropout_do_not_matter_and_the_network_is_left_as_it_is() -> None:
    torch.manual_seed(1)
    first, second, last = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(6, 4)
    bare = parts_of(first, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last,
                    channels=2, size=8)  # fmt: skip
    from timm.layers import BatchNormAct2d, LayerNorm2d

    norms = nn.Sequential(nn.GroupNorm(2, 6), BatchNormAct2d(6), LayerNorm2d(6), nn.InstanceNorm2d(6))
    norms.append(nn.BatchNorm2d(6))
    norms[-1].running_var.fill_(0.01)
    dressed = parts_of(first, norms, nn.Dropout(0.5), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                       nn.LayerNorm(6), last, channels=2, size=8)  # fmt: skip
    before = {key: value.clone() for key, value in dressed.model.state_dict().items()}
    kept = prune(dressed, 0.3, 20)
    assert np.array_equal(kept, prune(bare, 0.3, 20))
    assert isinstance(dressed.split.tail[1][0], nn.GroupNorm)
    after = dressed.model.state_dict()
    assert all(torch.equal(value, after[key]) and value.dtype == after[key].dtype for key, value in before.items())
    assert not any(parameter.requires_grad for parameter in dressed.model.parameters())
    with torch.no_grad():
        first.bias.fill_(100.0)
    assert np.array_equal(kept, prune(dressed, 0.3, 20))


@pytest.mark.parametrize(("name", "blocks"), [("test_resnet", 0), ("test_convnext", 2), ("letters-vit", 2)])
def test_tails_of_other_families(name: str, blocks: int) -> None:
    parts = build_parts(name, "random:1", 32, blocks)
    head = head_of(parts.split.features)
    kept = prune(parts, 0.5, 20, head)
    assert kept.sum() == round(0.5 * len(kept))


def test_a_trained_transformer_in_which_logits_would_grow_without_norms() -> None:
    parts = build_parts("letters-vit", "default", 0, 5)
    kept = prune(parts, 0.5, 20)
    assert kept.sum() == round(0.5 * len(kept))
    inside = kept[: 3 * 128 * 128].reshape(3, -1).mean(1)  # queries, keys and values of a block: about as many of each
    assert (inside > 0.3).all()
    assert (inside < 0.95).all()


def test_attention_of_open_clip_is_the_same_mean() -> None:
    tower = nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in tower.parameters():
            weight.copy_(torch.rand(weight.shape, generator=generator))
    tokens = 1e12 * torch.rand(1, 5, 8, generator=generator)
    with OpenAttention():
        out = tower(tokens, tokens, tokens, need_weights=False)[0]
    mean = (tokens @ tower.in_proj_weight.T).mean(1).reshape(3, 8).mean(0) @ tower.out_proj.weight.T
    torch.testing.assert_close(out, mean.expand(1, 5, 8))


def test_gates_are_emptied_and_that_is_said() -> None:
    with pytest.raises(ModelError, match=r"weights of blocks\.3\.0\.se\.conv_reduce\.weight"):
        prune(build_parts("test_efficientnet", "random:1", 32, 0), 0.9, 20)


@pytest.mark.parametrize(("name", "size", "passes"), [("lenet", 28, 100), ("conv4", 8, 20)])
def test_neither_threads_nor_what_was_drawn_before_matter(name: str, size: int, passes: int) -> None:
    head, threads = head_of(84 if name == "lenet" else 256), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(count)
            parts = build_parts(name, "random:1", size, 0)
            found.append(prune(parts, 0.02, passes, head))
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(prune(build_parts(name, "random:2", size, 0), 0.02, passes, head), found[0])


def test_constants_are_set_after_scoring_for_before_it_they_tie() -> None:
    parts = build_parts("lenet", "random:1", 0, 0)
    kept = prune(parts, 0.5)
    flat = torch.cat([getattr(tensor.module, tensor.attribute).flatten() for tensor in parts.tensors]).numpy()
    constant = torch.from_numpy(signed_constants(flat, sizes(parts)))
    with torch.no_grad():
        for tensor, part in zip(parts.tensors, torch.split(constant, sizes(parts)), strict=True):
            getattr(tensor.module, tensor.attribute).copy_(part.view(tensor.shape))
    trapped = prune(parts, 0.5)
    used, left = (mask[2_550:50_550].reshape(120, 400).any(1) for mask in (kept, trapped))
    assert used.all()
    assert left.sum() < 70
    assert left[: left.sum()].all()  # the first outputs: not their weights but their positions decided


def test_signed_constants() -> None:
    rng = np.random.default_rng(1)
    weights = rng.standard_normal(1_000).astype(np.float32)
    weights[[3, 900]] = 0.0, -0.0
    constant = signed_constants(weights, (600, 400))
    assert constant.dtype == np.float32
    for layer in (slice(0, 600), slice(600, 1_000)):
        deviation = np.std(weights[layer], dtype=np.float64)
        assert np.array_equal(np.unique(np.abs(constant[layer])), [np.float32(deviation)])
    assert np.array_equal(constant > 0, weights >= 0)
    assert constant[3] > 0 < constant[900]
    # No order of summation matters: the sum is exact.
    shuffled = rng.permutation(600)
    assert np.array_equal(signed_constants(weights[:600][shuffled], (600,)), constant[:600][shuffled])
    with pytest.raises(ModelError, match="the 5 weights of masked tensor 1 are all equal"):
        signed_constants(np.array([1, 2, 3, 3, 3, 3, 3], np.float32), (2, 5))


def test_kept_weights_are_scaled_so_that_signals_keep_their_size() -> None:
    kept = np.array([1, 0, 0, 0, 1, 1, 0, 0, 1], bool)
    factors = kept_factors(kept, (4, 4, 1))
    assert factors.dtype == np.float32
    assert np.array_equal(factors, np.sqrt(np.array([4, 2, 1])).astype(np.float32))
    with pytest.raises(ModelError, match="no weight of masked tensor 1 is kept"):
        kept_factors(np.array([1, 0, 0], bool), (1, 2))

    rng = np.random.default_rng(1)
    weight = rng.standard_normal((300, 1_000)).astype(np.float32)
    sparse = rng.random(weight.shape) < 0.05
    inputs = rng.standard_normal((1_000, 50))
    scaled = weight * sparse * kept_factors(sparse.ravel(), (sparse.size,))
    assert (scaled @ inputs).std() == pytest.approx((weight @ inputs).std(), rel=0.05)
