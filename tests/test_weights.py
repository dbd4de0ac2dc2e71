"""Where weights come from: files, the hub's cache, and what is said when the hub is out of reach."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from common.errors import ModelError
from common.models import weight_files
from common.models.backbone import load_backbone

REPOSITORY = "timm/test_vit.r160_in1k"


def forbidden(*_: object, **__: object) -> str:
    raise AssertionError("the hub's client is asked, which tries for minutes")


@pytest.fixture
def no_cache(monkeypatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    path = tmp_path / "model.safetensors"
    save_file(timm.create_model("test_vit", num_classes=11).state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("test_vit", "model.safetensors of http.*timm/test_vit.r160_in1k"),
        ("clip-vit-b32", "open_clip_model.safetensors of http.*timm/vit_base_patch32_clip_224.openai"),
        ("convmixer-768-32", "model.safetensors of http.*timm/convmixer_768_32.in1k"),
    ],
)
@pytest.mark.parametrize("how", ["switched off", "unreachable"])
def test_without_a_network_the_error_names_the_file(monkeypatch, no_cache, name: str, file: str, how: str) -> None:
    monkeypatch.setattr(weight_files, "hf_hub_download", forbidden)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "switched off")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: refused
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(ModelError, match=f"Download {file}.*weights='/path/to/") as caught:
            load_backbone(name, "default", 0, 2)
    assert ("HF_HUB_OFFLINE is set" if how == "switched off" else "cannot be reached") in str(caught.value)


def test_a_hub_that_takes_the_call_and_says_nothing_is_not_waited_for(monkeypatch, no_cache) -> None:
    monkeypatch.setattr(weight_files, "hf_hub_download", forbidden)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weight_files, "_KNOCK_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ModelError, match="cannot be reached"):
            load_backbone("test_vit", "default", 0, 2)


def test_a_hub_that_answers_is_asked_for_the_file(monkeypatch, no_cache, saved: Path) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(401)

        def log_message(self, *_: object) -> None:
            pass

    asked = []
    monkeypatch.setattr(weight_files, "hf_hub_download", lambda *args: asked.append(args) or str(saved))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    backbone = load_backbone("test_vit", "default", 0, 2)
    server.shutdown()
    server.server_close()
    assert asked == [(REPOSITORY, "model.safetensors")]
    assert backbone.digest == load_backbone("test_vit", str(saved), 0, 2).digest


def test_what_the_cache_holds_needs_no_network(monkeypatch, no_cache: Path, saved: Path) -> None:
    monkeypatch.setattr(weight_files, "hf_hub_download", forbidden)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = no_cache / "models--timm--test_vit.r160_in1k"
    for name, content in (("refs/main", b"abc"), ("snapshots/abc/model.safetensors", saved.read_bytes())):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(content)
    assert load_backbone("test_vit", "default", 0, 2).digest == load_backbone("test_vit", str(saved), 0, 2).digest


def test_a_file_must_hold_every_tensor_and_may_hold_any_classifier(tmp_path: Path, saved: Path) -> None:
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    without = tmp_path / "features.safetensors"
    save_file(state, without)
    load_backbone("test_vit", str(without), 0, 2)
    state.pop("blocks.3.attn.qkv.weight")
    save_file(state, without)
    with pytest.raises(ModelError, match=r"1 of its \d+ tensors are missing \(blocks\.3\.attn\.qkv\.weight\)$"):
        load_backbone("test_vit", str(without), 0, 2)
    other = tmp_path / "other.safetensors"
    save_file({"visual.proj": torch.zeros(3)}, other)
    with pytest.raises(
        ModelError,
        match=r"are not those of test_vit: .* are missing .*; 1 of the 1 in the file are unexpected \(visual\.proj\)",
    ):
        load_backbone("test_vit", str(other), 0, 2)
    with pytest.raises(ModelError, match="are not those of letters-vit"):
        load_backbone("letters-vit", str(saved), 0, 2)


def test_weights_are_what_the_file_says(saved: Path) -> None:
    torch.manual_seed(5)
    model = timm.create_model("test_vit", num_classes=11).eval()
    backbone = load_backbone("test_vit", str(saved), 0, 2)
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
        found = backbone.unmasked_features(backbone.prefix(images))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_random_weights_are_the_same_everywhere_and_leave_torch_alone() -> None:
    torch.manual_seed(1)
    first = load_backbone("test_vit", "random", 0, 2)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)
    assert load_backbone("test_vit", "random", 0, 2).digest == first.digest
    assert load_backbone("letters-vit", "random", 0, 2).digest != load_backbone("letters-vit", "default", 0, 2).digest
