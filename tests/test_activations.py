"""The cache of prefix activations, and the views that it holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.models.activations import Activations
from common.models.backbone import load_backbone
from common.models.input_spec import InputSpec
from common.models.preprocess import preprocess
from common.models.views import Views

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 8, 8), dtype=np.uint8)
ALL = np.arange(10)


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("letters-vit", "default", 0, 3)


@pytest.fixture
def passes(backbone, monkeypatch) -> list[int]:
    """Sizes of the batches that went through the prefix."""
    calls: list[int] = []
    original = backbone.prefix.forward
    monkeypatch.setattr(backbone.prefix, "forward", lambda x: calls.append(len(x)) or original(x))
    return calls


def test_they_are_what_the_prefix_gives_rounded_to_bfloat16(backbone, tmp_path: Path) -> None:
    with torch.no_grad():
        expected = backbone.prefix(preprocess(IMAGES, backbone.spec)).to(torch.bfloat16).float()
    for kept in ("disk", "memory"):
        found = Activations(backbone, IMAGES, keep=kept, folder=tmp_path)
        assert torch.equal(found.batch(ALL), expected)
        assert torch.equal(found.batch(ALL[[7, 2, 2]]), expected[[7, 2, 2]])
    # One image at a time may round differently in the last bit.
    computed = Activations(backbone, IMAGES, keep="none").batch(ALL)
    torch.testing.assert_close(computed, expected, rtol=0.01, atol=0.01)


def test_a_file_is_written_once_and_keyed_by_content(backbone, tmp_path: Path, passes: list[int]) -> None:
    def load(images=IMAGES, **options) -> Activations:
        return Activations(backbone, images, folder=tmp_path, batch_size=4, **options)

    first = load()
    assert passes == [4, 4, 2]
    again = load(IMAGES.copy())
    assert len(passes) == 3, "a new process reads the file"
    assert torch.equal(first.batch(ALL), again.batch(ALL))
    load(IMAGES[::-1].copy())
    assert len(passes) == 6
    load(precision=torch.bfloat16)
    assert len(passes) == 9
    load(views=Views(1, seed=1)), load(views=Views(1, seed=2))
    assert len(passes) == 21, "other seeds draw other views"
    assert not list(tmp_path.glob("*.tmp"))
    file = next(path for path in tmp_path.iterdir() if path.stat().st_size < 2 * 2 * first.batch(ALL).numel())
    assert file.stat().st_size == 128 + 2 * first.batch(ALL).numel(), "two bytes a value"


def test_without_a_cache_every_batch_is_computed(backbone, passes: list[int]) -> None:
    activations = Activations(backbone, IMAGES, keep="none")
    assert passes == []
    activations.batch(ALL[:3]), activations.batch(ALL[:3])
    assert passes == [3, 3]


def test_a_folder_that_cannot_be_written_is_no_obstacle(backbone, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    activations = Activations(backbone, IMAGES, folder=blocked)
    assert activations.batch(ALL).shape == (10, 17, 128)


def test_batches_cover_everything_in_order_and_progress_is_told(backbone) -> None:
    told: list[tuple[int, int]] = []
    activations = Activations(
        backbone, IMAGES, keep="memory", batch_size=4, views=Views(1), progress=lambda *at: told.append(at)
    )
    assert told == [(4, 20), (8, 20), (10, 20), (14, 20), (18, 20), (20, 20)]
    parts = list(activations.batches(4))
    assert [part for part, _ in parts] == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert torch.equal(torch.cat([tokens for _, tokens in parts]), activations.batch(ALL))


def test_views_are_crops_of_the_image_and_view_0_is_the_image() -> None:
    spec = InputSpec(3, 24, (0.0,) * 3, (1.0,) * 3)
    ramp = np.broadcast_to(np.arange(0, 256, 4, dtype=np.uint8)[:, None], (64, 64))
    images = np.stack([ramp] * 6)[..., None].repeat(3, axis=3)
    views = Views(2, mirror=False, seed=5)
    assert views.count == 3
    assert torch.equal(views.draw(images, 0, 0, spec), preprocess(images, spec))
    drawn = views.draw(images, 0, 1, spec)
    assert drawn.shape == (6, 3, 24, 24)
    heights = (drawn[:, 0, -1, 0] - drawn[:, 0, 0, 0]).tolist()  # share of the ramp that a crop has kept
    assert all(0.5 < height < 1 for height in heights)
    assert len({round(height, 4) for height in heights}) == 6, "each image has a crop of its own"
    assert torch.equal(views.draw(images[2:4], 2, 1, spec), drawn[2:4]), "whatever the batch"
    assert not torch.equal(views.draw(images, 0, 2, spec), drawn)


def test_mirroring_can_be_forbidden() -> None:
    spec = InputSpec(1, 16, (0.0,), (1.0,))
    ramp = np.stack([np.broadcast_to(np.arange(0, 256, 4, dtype=np.uint8), (64, 64))] * 40)

    def rising(mirror: bool) -> int:
        drawn = Views(1, mirror, seed=3).draw(ramp, 0, 1, spec)
        return int((drawn[:, 0, 0, -1] > drawn[:, 0, 0, 0]).sum())

    assert rising(False) == 40
    assert 10 < rising(True) < 30


def test_grey_images_of_any_shape_have_views() -> None:
    spec = InputSpec(3, 8, (0.5,) * 3, (0.5,) * 3)
    for shape in ((2, 1, 1), (2, 5, 3), (2, 28, 28)):
        assert Views(1).draw(np.zeros(shape, np.uint8), 0, 1, spec).shape == (2, 3, 8, 8)
