"""`deltamask model`, and the presets' config files."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from common.config.run import parse_run_config
from common.models.backbone import load_backbone
from common.models.presets import PRESETS
from deltamask_server.tools.cli import app
from deltamask_server.tools.outline import outline

ROOT = Path(__file__).parents[1]


def run(*args: str) -> Result:
    return CliRunner().invoke(app, ["model", *args])


def test_the_outline_is_that_of_the_loaded_backbone() -> None:
    backbone = load_backbone("test_vit", "random", 0, 3)
    found = outline("test_vit", 0, 3)
    assert found.d == backbone.masks.d
    assert tuple(a * b for _, (a, b) in found.tensors) == backbone.masks.segments
    assert (found.features, found.spec, found.depth) == (backbone.features, backbone.spec, 6)
    assert found.masked_blocks == ("blocks.3", "blocks.4", "blocks.5")
    assert found.activations == (101, 64)


def test_it_prints_layers_split_sizes_and_the_digest_of_weights() -> None:
    result = run("letters-vit", "--masked-blocks", "1", "--weights", "default")
    assert result.exit_code == 0, result.output
    assert "blocks.5.attn.qkv.weight   384 x 128" in result.output
    assert "196,608 masked weights" in result.output
    assert "246 bytes at 0.01 bpp, 2,458 bytes at 0.1 bpp" in result.output
    assert load_backbone("letters-vit", "default", 0, 1).digest.hex() in result.output
    figures = json.loads(run("letters-vit", "--json").output)
    assert (figures["d"], figures["blocks"], figures["features"]) == (983_040, 6, 128)
    assert sum(a * b for a, b in (tensor["shape"] for tensor in figures["masked_tensors"])) == figures["d"]


@pytest.mark.parametrize("args", [("nonsense",), ("letters-vit", "--masked-blocks", "7"), ("regnety_002",)])
def test_what_cannot_be_used_is_one_line_and_status_1(args: tuple[str, ...]) -> None:
    result = run(*args)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert len(result.output.splitlines()) == 1


def test_an_extra_that_is_missing_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    result = run("clip-vit-b32")
    assert result.exit_code == 1
    assert result.output.endswith('which is not installed here: pip install "deltamask[openclip]"\n')
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_config_file_that_says_what_to_run_and_what_to_download(name: str) -> None:
    text = (ROOT / "conf" / "backbones" / f"{name}.toml").read_text()
    config = parse_run_config(tomllib.loads(text))
    assert config.backbone.backbone == name
    hub = outline(name, config.backbone.image_size).hub
    assert hub is not None
    assert f"--run-config conf/backbones/{name}.toml" in text
    assert re.search(rf"download {re.escape(hub.name)} of\n# https://huggingface.co/{re.escape(hub.repo)},", text)
