"""A digest of frozen weights that is computed once: never that of other weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from safetensors.torch import save_file

from common.models import backbone as module
from common.models.backbone import build_parts, load_backbone


def test_a_digest_is_kept_and_is_the_one_that_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [("letters-vit", "default", 0, 2), ("lenet", "default", 0, 0), ("test_vit", "random:3", 0, 1)]
    computed = [load_backbone(*each).digest for each in asked]
    first = [load_backbone(*each, cache=tmp_path).digest for each in asked]
    monkeypatch.setattr(module, "digest_of", lambda parts: pytest.fail("it was computed again"))
    again = [load_backbone(*each, cache=tmp_path).digest for each in asked]
    assert computed == first == again
    assert len(list((tmp_path / "digests").iterdir())) == 3


def test_another_file_seed_size_or_split_is_another_digest(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    state = build_parts("lenet", "random:1", 0, 0).model.state_dict()
    save_file(state, file)
    first = load_backbone("lenet", str(file), 0, 0, cache=tmp_path).digest
    assert first == load_backbone("lenet", "random:1", 0, 0, cache=tmp_path).digest
    save_file({name: tensor + 1 for name, tensor in state.items()}, file)
    os.utime(file, (1, 1))
    changed = load_backbone("lenet", str(file), 0, 0, cache=tmp_path).digest
    assert changed == load_backbone("lenet", str(file), 0, 0).digest != first
    others = [("lenet", "random:2", 0, 0), ("lenet", "random:1", 0, 1), ("lenet", "random:1", 32, 0)]
    assert len({first, changed, *(load_backbone(*each, cache=tmp_path).digest for each in others)}) == 5


def test_a_damaged_or_unwritable_cache_costs_time_only(tmp_path: Path) -> None:
    expected = load_backbone("lenet", "default", 0, 0, cache=tmp_path).digest
    (file,) = (tmp_path / "digests").iterdir()
    whole = file.read_bytes()
    for content in (b"", b"damaged", whole[:-1], whole[:-16] + bytes([whole[-16] ^ 1]) + whole[-15:]):
        file.write_bytes(content)
        assert load_backbone("lenet", "default", 0, 0, cache=tmp_path).digest == expected
    (tmp_path / "blocked").write_text("no folder")
    assert load_backbone("lenet", "default", 0, 0, cache=tmp_path / "blocked").digest == expected
