"""Prefix and tail are the whole network, for every family, and what must be masked is."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.convmixer import ConvMixer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from common.errors import ModelError
from common.models.backbone import build_parts, load_backbone
from common.models.families import split_model
from common.models.input_spec import InputSpec
from common.models.maskable import masked_tensors
from common.models.masking import Masks
from common.models.presets import parse_name

TINY_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 4, "width": 32, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory) -> str:
    """A CLIP of open_clip's own kind, known to open_clip by name."""
    path = tmp_path_factory.mktemp("open_clip") / "tiny-clip.json"
    path.write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(path)
    return "open_clip:tiny-clip"


def step_and_compare(model: nn.Module, spec: InputSpec, masked_blocks: int) -> list[str]:
    """Split, compare with the whole, take a masked step; the names of the masked tensors."""
    model.requires_grad_(False).eval()
    images = torch.randn(2, spec.channels, spec.size, spec.size)
    with torch.no_grad():
        whole = model(images)
    split = split_model(model, spec, masked_blocks)
    tensors = masked_tensors(split.blocks)
    masks = Masks(split.tail, [(tensor.module, tensor.attribute) for tensor in tensors])
    masks.unmask()
    with torch.no_grad():
        activations = split.prefix(images)
        parts = split.tail(activations)
    assert parts.shape == (2, split.features)
    assert (parts - whole).abs().max() <= 1e-5 * whole.abs().max()
    take_a_step(masks, split.tail, activations)
    with torch.no_grad():
        assert torch.equal(split.prefix(images), activations)
    return [tensor.name for tensor in tensors]


def take_a_step(masks: Masks, tail: nn.Module, activations: torch.Tensor) -> None:
    """A masked training step reaches every masked tensor, and changes nothing else."""
    before = {name: value.clone() for name, value in tail.state_dict().items() if "score" not in name}
    masks.load_scores(torch.full((masks.d,), 2.9))
    masks.generator.manual_seed(1)
    optimiser = torch.optim.Adam(masks.parameters(), lr=0.1)
    tail(activations).square().mean().backward()
    assert all(score.grad is not None and score.grad.abs().sum() > 0 for score in masks.parameters())
    optimiser.step()
    assert not torch.equal(masks.probabilities(), torch.full((masks.d,), 2.9).sigmoid())
    after = tail.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def grey(size: int) -> InputSpec:
    return InputSpec(3, size, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"init_values": 1e-2, "reg_tokens": 4, "no_embed_class": True, "mlp_layer": timm.layers.SwiGLUPacked},
        {"class_token": False, "global_pool": "map", "qk_norm": True},
    ],
    ids=["plain", "dinov2 with registers and LayerScale", "attention pooling"],
)
def test_vision_transformers_of_timm(options) -> None:
    vit = VisionTransformer(img_size=28, patch_size=14, embed_dim=48, depth=7, num_heads=4, num_classes=0, **options)
    names = step_and_compare(vit, grey(28), 5)
    assert names[:2] == ["blocks.2.attn.qkv.weight", "blocks.2.attn.proj.weight"]
    assert len(names) == 20


def test_convmixer_masks_its_convolutions() -> None:
    mixer = ConvMixer(dim=16, depth=6, kernel_size=5, patch_size=4, num_classes=0)
    names = step_and_compare(mixer, grey(24), 5)
    assert names == [f"blocks.{i}.{layer}.weight" for i in range(1, 6) for layer in ("0.fn.0", "1")]


@pytest.mark.parametrize(
    "extra",
    [{}, {"ls_init_value": 0.1, "pool_type": "avg"}, {"block_type": "custom"}],
    ids=["plain", "LayerScale", "own attention"],
)
def test_towers_of_open_clip_mask_packed_projections(extra) -> None:
    config = {**TINY_CLIP["vision_cfg"], **extra}
    from open_clip.model import _build_vision_tower

    names = step_and_compare(_build_vision_tower(24, config), grey(32), 3)
    block = ["attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"]
    assert names == [f"transformer.resblocks.{i}.{tensor}" for i in (1, 2, 3) for tensor in block]


def test_towers_of_open_clip_that_are_models_of_timm() -> None:
    from open_clip.model import _build_vision_tower

    config = {"timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "linear", "image_size": 160}
    assert step_and_compare(_build_vision_tower(24, config), grey(160), 2)[0] == "trunk.blocks.4.attn.qkv.weight"


@pytest.mark.parametrize(
    ("name", "masked_blocks", "first"),
    [
        ("test_resnet", 2, "layer3.0.conv1.weight"),
        ("test_convnext", 1, "stages.3.downsample.1.weight"),
        ("test_efficientnet", 2, "blocks.3.0.conv_pw.weight"),
    ],
)
def test_other_networks_with_a_sequence_of_blocks(name, masked_blocks, first) -> None:
    # Zeros after every branch, as ResNets begin, would let no gradient through.
    options = {"zero_init_last": False} if name == "test_resnet" else {}
    model = timm.create_model(name, num_classes=0, **options)
    assert step_and_compare(model, grey(96), masked_blocks)[0] == first


def test_blocks_with_further_arguments() -> None:
    from timm.models.eva import Eva

    eva = Eva(img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=2, num_classes=0, use_rot_pos_emb=True)
    assert step_and_compare(eva, grey(32), 2)[0] == "blocks.2.attn.qkv.weight"


class Skipping(nn.Module):
    """What the last block gives is not all that the features are made of."""

    def __init__(self, trick: str) -> None:
        super().__init__()
        self.stem, self.trick = nn.Conv2d(3, 8, 4, 4), trick
        self.blocks = nn.Sequential(*(nn.Conv2d(8, 8, 1) for _ in range(4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if self.trick == "backwards":
            for block in reversed(self.blocks):
                x = block(x)
            return x.mean((2, 3))
        return (self.blocks(x) + x).mean((2, 3))

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


@pytest.mark.parametrize("trick", ["backwards", "long skip"])
def test_a_network_that_is_no_sequence_is_refused(trick: str) -> None:
    with pytest.raises(ModelError, match="prefix and tail are not the whole network"):
        split_model(Skipping(trick).requires_grad_(False).eval(), grey(16), 2)
    with pytest.raises(ModelError, match="no sequence of blocks"):
        split_model(nn.Sequential(nn.Linear(3, 3)), grey(16), 2)


@pytest.mark.parametrize(
    ("name", "image_size", "d"),
    [
        ("vit-tiny", 32, 2_211_840),
        ("convmixer-768-32", 28, 3_137_280),
        ("dinov2-small", 28, 8_847_360),
        pytest.param("clip-vit-b32", 64, 35_389_440, marks=pytest.mark.slow),
        pytest.param("dinov2-base", 28, 35_389_440, marks=pytest.mark.slow),
        pytest.param("dinov2-large", 28, 62_914_560, marks=pytest.mark.slow),
        pytest.param("clip-vit-l14", 28, 62_914_560, marks=pytest.mark.slow),
    ],
)
def test_presets_at_full_width(name: str, image_size: int, d: int) -> None:
    model, spec, _, tensors = build_parts(name, "random", image_size, 5)
    assert sum(prod(tensor.shape) for tensor in tensors) == d
    assert step_and_compare(model, spec, 5) == [tensor.name for tensor in tensors]


def test_an_open_clip_tower_from_a_file_of_the_whole_model_or_its_own(tiny_clip: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    clip = open_clip.create_model("tiny-clip").eval()
    whole, tower = tmp_path / "clip.safetensors", tmp_path / "tower.safetensors"
    save_file({key: value.contiguous() for key, value in clip.state_dict().items()}, whole)
    save_file({key: value.half() for key, value in clip.visual.state_dict().items()}, tower)

    first = load_backbone(tiny_clip, str(whole), 0, 2)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        features = first.unmasked_features(first.prefix(images))
        torch.testing.assert_close(features, clip.encode_image(images), rtol=1e-5, atol=1e-6)
        second = load_backbone(tiny_clip, str(tower), 0, 2)
        torch.testing.assert_close(second.unmasked_features(second.prefix(images)), features, rtol=0.02, atol=0.02)
    assert load_backbone(tiny_clip, str(whole), 64, 2).prefix(torch.randn(1, 3, 64, 64)).shape == (1, 65, 32)
    save_file({"visual.conv1.weight": torch.zeros(32, 3, 8, 8)}, tower)
    with pytest.raises(
        ModelError, match=r"not those of open_clip:tiny-clip: 56 of its 56 tensors are missing.*unexpected"
    ):
        load_backbone(tiny_clip, str(tower), 0, 2)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("open_clip:nonsense", "random", "open_clip knows no such model"),
        ("open_clip:ViT-B-32/nonsense", "random", "ViT-B-32 has openai, "),
        ("open_clip:ViT-B-32", "default", "say which weights"),
        ("vit_tiny_patch16_22", "random", "near it are vit_tiny_patch16_224"),
        ("vit_tiny_patch16_224.nonsense", "random", "has augreg_in21k, "),
        ("test_vit", "random", "masked-blocks = 9: the backbone has 6 blocks"),
    ],
)
def test_names_that_mean_nothing_are_explained(name: str, weights: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_backbone(name, weights, 0, 9)


@pytest.mark.parametrize(
    "name", ["letters-vit", "open_clip:ViT-B-32/openai", "open_clip:RN50", "resnet18", "vit_x.tag"]
)
def test_a_source_has_the_name_it_was_found_by(name: str) -> None:
    assert str(parse_name(name)) == name
