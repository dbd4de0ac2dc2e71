from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import ModelError
from common.models.backbone import load_backbone
from common.models.input_spec import InputSpec
from common.models.letters import build_letters_vit, find_letters_weights
from common.models.preprocess import preprocess


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("letters-vit", "default", 0, 3)


def test_the_embedded_weights_are_installed_and_small() -> None:
    assert 1_000_000 < find_letters_weights().stat().st_size <= 5_000_000


def test_prefix_and_tail_are_the_whole_network(backbone) -> None:
    from safetensors.torch import load_file

    vit = build_letters_vit()
    vit.load_state_dict({key: value.float() for key, value in load_file(find_letters_weights()).items()})
    vit.eval()
    images = torch.randn(5, 1, 32, 32)
    with torch.no_grad():
        whole = vit.forward_head(vit.forward_features(images), pre_logits=True)
        parts = backbone.unmasked_features(backbone.prefix(images))
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_all_linear_weights_of_the_last_blocks_are_masked(backbone) -> None:
    block = [128 * 384, 128 * 128, 128 * 512, 512 * 128]
    assert backbone.masks.segments == tuple(block * 3)
    assert all(not p.requires_grad for p in backbone.prefix.parameters())


def test_the_digest_names_weights_and_split(backbone) -> None:
    assert load_backbone("letters-vit", "default", 0, 3).digest == backbone.digest
    assert load_backbone("letters-vit", "default", 0, 2).digest != backbone.digest


def test_what_cannot_be_loaded_is_said_clearly(tmp_path: Path) -> None:
    wrong = tmp_path / "model.pth"
    wrong.write_bytes(b"pickle")
    broken = tmp_path / "model.safetensors"
    broken.write_bytes(b"\0" * 100)
    cases = [
        (("vit_nonsense", "default", 0, 1), "timm knows no such model"),
        (("vit_tiny_patch16_224", str(wrong), 0, 1), "neither as safetensors nor as what torch.save writes"),
        (("vit_tiny_patch16_224", str(tmp_path / "none.safetensors"), 0, 1), "there is no file at"),
        (("vit_tiny_patch16_224", str(broken), 0, 1), "cannot be loaded"),
        (("letters-vit", str(broken), 0, 1), "cannot be loaded"),
        (("letters-vit", "default", 64, 1), "image-size = 64"),
        (("letters-vit", "default", 0, 7), "has 6 blocks"),
    ]
    for arguments, message in cases:
        with pytest.raises(ModelError, match=message):
            load_backbone(*arguments)


def test_timm_backbone_at_another_size() -> None:
    backbone = load_backbone("vit_tiny_patch16_224", "random", 64, 1)
    assert backbone.spec.size == 64
    assert backbone.masks.d == 192 * 576 + 192 * 192 + 2 * 192 * 768
    assert backbone.unmasked_features(backbone.prefix(torch.zeros(2, 3, 64, 64))).shape == (2, 192)


def test_pretrained_file_from_disk(shared_data: Path) -> None:
    path = shared_data / "vit_tiny_patch16_224.safetensors"
    backbone = load_backbone("vit_tiny_patch16_224.augreg_in21k_ft_in1k", str(path), 96, 5)
    assert backbone.masks.d == 2_211_840
    assert backbone.spec == InputSpec(3, 96, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_preprocess_converts_channels_size_and_range() -> None:
    grey = np.full((2, 8, 8), 255, np.uint8)
    colour = np.zeros((2, 16, 16, 3), np.uint8)
    colour[..., 1] = 255
    to_colour = preprocess(grey, InputSpec(3, 16, (0.5,) * 3, (0.5,) * 3))
    assert to_colour.shape == (2, 3, 16, 16)
    torch.testing.assert_close(to_colour, torch.ones_like(to_colour))
    to_grey = preprocess(colour, InputSpec(1, 16, (0.0,), (1.0,)))
    torch.testing.assert_close(to_grey, torch.full((2, 1, 16, 16), 0.587))
