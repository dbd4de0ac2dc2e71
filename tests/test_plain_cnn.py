"""LeNet, Conv-4 and Conv-6: what they compute, how they are split, and weights that are the same everywhere."""

from __future__ import annotations

import json
from math import prod, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.convmixer import ConvMixer
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from typer.testing import CliRunner

from common.config.run import parse_run_config
from common.errors import ConfigError, ModelError
from common.models.activations import Activations
from common.models.backbone import build_parts, load_backbone
from common.models.families import split_model
from common.models.kaiming import kaiming_uniform
from common.models.masking import Masks
from common.models.preprocess import preprocess
from common.models.presets import PLAIN, parse_name
from common.uniforms import stream_key, uniforms
from deltamask_server.tools.cli import app
from deltamask_server.tools.outline import outline
from tests.test_families import TINY_CLIP, grey, step_and_compare

SEGMENTS = {
    "lenet": (150, 2_400, 48_000, 10_080),
    "conv4": (1_728, 36_864, 73_728, 147_456, 2_097_152, 65_536),
    "conv6": (1_728, 36_864, 73_728, 147_456, 294_912, 589_824, 1_048_576, 65_536),
}
FEATURES = {"lenet": 84, "conv4": 256, "conv6": 256}
DIGESTS = {
    ("lenet", 0): "01bbefc80f712de4",
    ("lenet", 1): "b3fe9d60ec18f60e",
    ("conv4", 0): "8325c78000b21be4",
    ("conv6", 0): "4abd679e1a632f45",
}
"""Of all weights, by name and seed. Another digest is another network: deployed clients would be refused."""


def written_out(name: str, w: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The networks as their papers' tables have them."""
    if name == "lenet":
        x = F.max_pool2d(F.relu(F.conv2d(x, w[0], padding=2)), 2)
        x = F.max_pool2d(F.relu(F.conv2d(x, w[1])), 2)
        return F.relu(F.linear(F.relu(F.linear(x.flatten(1), w[2])), w[3]))
    for i in range(0, 4 if name == "conv4" else 6, 2):
        x = F.max_pool2d(F.relu(F.conv2d(F.relu(F.conv2d(x, w[i], padding=1)), w[i + 1], padding=1)), 2)
    return F.relu(F.linear(F.relu(F.linear(x.flatten(1), w[-2])), w[-1]))


@pytest.mark.parametrize("name", PLAIN)
def test_the_network_is_the_one_of_the_papers_and_all_of_it_is_masked(name: str) -> None:
    backbone = load_backbone(name, "default", 0, 0)
    assert backbone.masks.segments == SEGMENTS[name]
    assert backbone.features == FEATURES[name]
    weights = [p.clone() for key, p in backbone.tail.state_dict().items() if key.endswith("original")]
    assert len(weights) == len(SEGMENTS[name])  # no biases, no norms
    images = torch.randn(3, backbone.spec.channels, backbone.spec.size, backbone.spec.size)
    features = backbone.unmasked_features(backbone.prefix(images))
    assert features.shape == (3, FEATURES[name])
    torch.testing.assert_close(features, written_out(name, weights, images), rtol=1e-5, atol=1e-6)
    assert features.min() == 0 < features.std()


@pytest.mark.parametrize("name", PLAIN)
def test_prefix_and_tail_are_the_whole_network_wherever_it_is_split(name: str) -> None:
    size = 12 if name == "lenet" else 8
    depth = len(SEGMENTS[name])
    for masked_blocks in range(depth + 1):
        model, spec, _, tensors = build_parts(name, "random", size, masked_blocks)
        names = step_and_compare(model, spec, masked_blocks)
        assert names == [tensor.name for tensor in tensors]
        assert len(names) == (masked_blocks or depth)
        assert names[-1] == f"blocks.{depth - 1}.linear.weight"


def test_nothing_is_below_a_network_that_is_masked_as_a_whole(tmp_path: Path) -> None:
    backbone = load_backbone("conv4", "random", 8, 0)
    assert type(backbone.prefix) is nn.Identity
    images = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), np.uint8)
    kept = Activations(backbone, images, folder=tmp_path).batch(np.arange(5))
    expected = preprocess(images, backbone.spec)
    assert torch.equal(kept, expected.to(torch.bfloat16).float())
    assert (kept - expected).abs().max() <= 2**-8 * expected.abs().max()


@pytest.mark.parametrize("name", PLAIN)
def test_the_weights_are_golden(name: str) -> None:
    for (other, seed), digest in DIGESTS.items():
        if other == name:
            assert load_backbone(name, f"random:{seed}", 0, 0).digest.hex() == digest
    assert DIGESTS[name, 0] == load_backbone(name, "default", 0, 0).digest.hex()


def test_equal_seeds_give_equal_weights_whatever_was_drawn_before() -> None:
    def weights(seed: str) -> list[torch.Tensor]:
        return [p.detach() for p in build_parts("lenet", seed, 0, 0).model.parameters()]

    torch.manual_seed(1)
    first = weights("random:5")
    torch.manual_seed(2)
    for same in (weights("random:5"), weights("random:05")):
        assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    for a, b in zip(first, weights("random:6"), strict=True):
        assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 5 / sqrt(a.numel())
    assert all(torch.equal(a, b) for a, b in zip(weights("random"), weights("default"), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights("random:0"), weights("default"), strict=True))


def test_a_seed_draws_the_same_convolutions_at_every_image_size() -> None:
    small, large = (build_parts("conv4", "random:1", size, 0).model.state_dict() for size in (8, 16))
    equal = [key for key, weight in small.items() if torch.equal(weight, large[key])]
    assert equal == [*(f"blocks.{i}.conv.weight" for i in range(4)), "blocks.5.linear.weight"]


def test_weights_are_kaiming_uniform_from_shared_integers() -> None:
    key, shape = stream_key(3, 0, 0, "a layer"), (64, 50, 3, 3)
    drawn = kaiming_uniform(key, shape)
    assert (drawn.shape, drawn.dtype) == (shape, np.float32)
    bound = sqrt(6 / 450)
    assert np.abs(drawn).max() <= np.float32(bound)
    assert drawn.std() == pytest.approx(sqrt(2 / 450), rel=0.02)
    assert abs(drawn.mean()) < 5 * sqrt(2 / 450 / drawn.size)
    assert np.abs(drawn).min() > 0
    assert len(np.unique(np.abs(drawn))) > 0.998 * drawn.size
    lanes = uniforms(key, 2 * drawn.size).tolist()
    for i in (0, 1, 12_345):  # the value in the middle of one of 2^32 equal parts of the range
        part = lanes[2 * i] + 65536 * lanes[2 * i + 1]
        assert drawn.flat[i] == pytest.approx(bound * (2 * (part + 0.5) / 2**32 - 1), rel=1e-7)


def test_weights_from_a_file(tmp_path: Path) -> None:
    model = build_parts("lenet", "random:9", 0, 0).model
    path = tmp_path / "lenet.safetensors"
    save_file(model.state_dict(), path)
    assert load_backbone("lenet", str(path), 0, 0).digest == load_backbone("lenet", "random:9", 0, 0).digest
    with pytest.raises(ModelError, match="not those of lenet at image-size = 32"):
        load_backbone("lenet", str(path), 32, 0)
    with pytest.raises(ModelError, match="not those of conv4"):
        load_backbone("conv4", str(path), 0, 0)
    with pytest.raises(ModelError, match="there is no file at"):
        load_backbone("conv4", "nowhere", 0, 0)


def test_image_sizes() -> None:
    assert load_backbone("lenet", "random", 12, 0).masks.segments[2] == 16 * 120
    assert load_backbone("conv6", "random", 8, 0).masks.segments[6] == 256 * 256
    assert load_backbone("conv4", "random", 4, 0).masks.segments[4] == 128 * 256
    for name, size, allowed in [
        ("lenet", 8, "multiples of 4 from 12"),
        ("lenet", 30, "multiples of 4 from 12"),
        ("conv4", 18, "multiples of 4 from 4"),
        ("conv6", 12, "multiples of 8 from 8"),
    ]:
        with pytest.raises(ModelError, match=f"image-size = {size}: {name} takes {allowed}"):
            load_backbone(name, "random", size, 0)


@pytest.mark.parametrize("name", ["letters-vit", "test_vit", "conv4"])
def test_a_seed_names_random_weights_of_every_library(name: str) -> None:
    size = {"letters-vit": 32, "test_vit": 160, "conv4": 8}[name]
    drawn = ("random", "random:0", "random:1", "random:2")
    digests = [load_backbone(name, weights, size, 1).digest for weights in drawn]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@pytest.mark.parametrize("seed", ["", "x", "-1", "1.5", " 1", "²", str(2**63), "9" * 5000])
@pytest.mark.parametrize("name", ["letters-vit", "test_vit", "open_clip:ViT-B-32/openai", "lenet"])
def test_what_is_no_seed_is_said(name: str, seed: str) -> None:
    with pytest.raises(ModelError, match="after `random:` comes a seed, 0 to 2\\^63 - 1") as caught:
        load_backbone(name, f"random:{seed}", 0, 1)
    assert len(str(caught.value)) < 500


def test_zero_blocks_are_all_blocks_of_every_family() -> None:
    vit = VisionTransformer(img_size=28, patch_size=14, embed_dim=48, depth=3, num_heads=4, num_classes=0)
    assert len(step_and_compare(vit, grey(28), 0)) == 12
    assert len(step_and_compare(ConvMixer(dim=16, depth=3, patch_size=4, num_classes=0), grey(24), 0)) == 6
    from open_clip.model import _build_vision_tower

    assert len(step_and_compare(_build_vision_tower(24, TINY_CLIP["vision_cfg"]), grey(32), 0)) == 16
    assert load_backbone("letters-vit", "default", 0, 0).digest == load_backbone("letters-vit", "default", 0, 6).digest


def test_zero_blocks_of_a_resnet_are_its_stages_and_not_its_stem() -> None:
    model, spec, split, tensors = build_parts("resnet18", "random", 32, 0)
    assert [name for name, _ in split.blocks] == ["layer1", "layer2", "layer3", "layer4"]
    assert (tensors[0].name, len(tensors)) == ("layer1.0.conv1.weight", 19)
    assert sum(prod(tensor.shape) for tensor in tensors) == 11_157_504
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(split.tail(split.prefix(images)), model(images), rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match="has 4 blocks, layer1 and after \\(0 masks all\\)"):
        split_model(model, spec, 5)


def test_masks_of_the_whole_network_are_one_flat_vector() -> None:
    parts = build_parts("lenet", "random:2", 0, 0)
    flat = torch.cat([getattr(tensor.module, tensor.attribute).flatten() for tensor in parts.tensors])
    masks = Masks(parts.split.tail, [(tensor.module, tensor.attribute) for tensor in parts.tensors])
    bits = torch.rand(masks.d, generator=torch.Generator().manual_seed(1)) < 0.5
    masks.set_multiplier(bits.float())
    masked = torch.cat([getattr(tensor.module, tensor.attribute).flatten() for tensor in parts.tensors])
    assert torch.equal(masked, flat * bits)


def test_the_command_shows_them() -> None:
    def shown(*args: str) -> str:
        result = CliRunner().invoke(app, ["model", *args])
        assert result.exit_code == 0, result.output
        return result.output

    text = shown("conv4")
    assert "blocks          6, masked: the last 5\n" in text
    assert "prefix          all below blocks.1; run once an image, 64 x 32 x 32 values (131,072 bytes) kept\n" in text
    text = shown("conv4", "--masked-blocks", "0", "--weights", "random:3")
    assert "weights         random, from a seed (`random:SEED`)\n" in text
    assert "blocks          6, masked: all\n" in text
    assert "prefix          nothing: the images themselves, 3 x 32 x 32 values (6,144 bytes) kept\n" in text
    assert "blocks.4.linear.weight  256 x 8192          2,097,152\n" in text
    assert "2,422,464 masked weights" in text
    assert load_backbone("conv4", "random:3", 0, 0).digest.hex() in text
    assert json.loads(shown("lenet", "--masked-blocks", "0", "--json"))["d"] == 60_630
    result = CliRunner().invoke(app, ["model", "lenet"])
    assert result.output == "Error: masked-blocks = 5: the backbone has 4 blocks, blocks.0 and after (0 masks all)\n"


@pytest.mark.parametrize("name", PLAIN)
def test_outline_and_name(name: str) -> None:
    assert str(parse_name(name)) == name
    found = outline(name, 0, 0)
    assert tuple(prod(shape) for _, shape in found.tensors) == SEGMENTS[name]
    assert found.parameters == found.masked_block_parameters == found.d
    assert found.features == FEATURES[name]
    assert not found.below
    assert outline(name, 0, 1).below


def test_the_config_takes_all_blocks_and_not_fewer_than_none() -> None:
    assert parse_run_config({"backbone": "conv4", "masked-blocks": 0}).backbone.masked_blocks == 0
    with pytest.raises(ConfigError, match="masked-blocks = -1"):
        parse_run_config({"masked-blocks": -1})
