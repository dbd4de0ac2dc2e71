"""Images are told apart by files and positions, so that activations are found without reading a pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.config.node import parse_node_config
from common.config.run import RunConfig
from common.data import open_split
from common.models.activations import Activations
from common.models.backbone import load_backbone
from deltamask_client import images
from tests.images import write_folder

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 8, 8), dtype=np.uint8)
DIGITS = tuple("0123456789")


def test_named_activations_are_found_without_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone("letters-vit", "default", 0, 3)
    passes: list[int] = []
    original = backbone.prefix.forward
    monkeypatch.setattr(backbone.prefix, "forward", lambda x: passes.append(len(x)) or original(x))

    def load(identity: bytes | None, pixels: np.ndarray = IMAGES) -> torch.Tensor:
        return Activations(backbone, pixels, folder=tmp_path, identity=identity).batch(np.arange(10))

    first = load(b"these")
    assert torch.equal(load(b"these", np.zeros_like(IMAGES)), first), "their pixels have not been read"
    assert passes == [10]
    load(b"others", np.zeros_like(IMAGES))
    assert passes == [10, 10]
    assert torch.equal(load(None), first)
    assert passes == [10, 10, 10], "without a name the pixels are hashed as ever"
    load(IMAGES.tobytes(), np.zeros_like(IMAGES))
    assert passes == [10] * 4, "a name is never taken for pixels"


def test_digits_and_positions(tmp_path: Path) -> None:
    train, test = (open_split("digits", part, 8, tmp_path) for part in ("train", "test"))  # type: ignore[arg-type]
    some = np.arange(5)
    names = [split.load(at).identity for split in (train, test) for at in (some, some + 1, some[:4])]
    assert len(set(names)) == 6
    assert open_split("digits", "train", 8, tmp_path).load(some).identity == names[0]


def test_a_folder_is_another_when_one_file_or_the_size_is(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "site", {"apple": 3, "sea": 3})

    def identity(side: int = 16, count: int = 6) -> bytes:
        return open_split(f"folder:{root}", "train", side, tmp_path / "cache", own=True).load(np.arange(count)).identity

    first = identity()
    assert identity() == first
    assert len({first, identity(side=8), identity(count=5)}) == 3
    write_folder(root, {"sea": 1}, seed=1)
    other = identity(count=7)
    (root / "sea" / "1-000.png").write_bytes(b"\x89PNG\r\n\x1a\n, broken")
    broken = identity(count=7)
    assert len({first, other, broken}) == 3
    assert identity() == first, "the images at these positions are the same"


def test_the_parts_of_a_site_and_its_test_images_have_names_of_their_own(tmp_path: Path) -> None:
    def site(client: int, **run: float) -> list[bytes]:
        node = parse_node_config({"partition-id": client, "num-partitions": 3, "cache-dir": str(tmp_path)})
        found = images.site_images(RunConfig(train_limit=90, **run), node, DIGITS, 8)  # type: ignore[arg-type]
        return [found.identity(validation) for validation in (False, True)]

    first = site(0, validation_fraction=0.25)
    names = [*first, *site(1, validation_fraction=0.25), site(0)[0]]
    assert len(set(names)) == 5
    images.site_images.cache_clear()
    assert site(0, validation_fraction=0.25) == first
    tests = [images.test_images("digits", 50, tmp_path, DIGITS, own, 8, None) for own in ((1, 2), (3,))]
    assert tests[0].identity != tests[1].identity
    assert set(tests[0].labels) == {1, 2}
