"""Files of weights as they are found: formats, names with something before them, types, and what does not fit."""

from __future__ import annotations

import argparse
import logging
import pickle
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from common.errors import ModelError, reason_of
from common.models import backbone as backbones
from common.models import timm_models
from common.models.backbone import build_parts, load_backbone
from common.models.fit_weights import network_tensors
from deltamask_server.tools.outline import outline

State = Mapping[str, torch.Tensor]
NETWORKS = ["lenet", "letters-vit", "test_vit"]


def state_of(name: str = "lenet", seed: int = 9) -> dict[str, torch.Tensor]:
    return dict(build_parts(name, f"random:{seed}", 0, 1).model.state_dict())


def digest(name: str, weights: str) -> bytes:
    return load_backbone(name, weights, 0, 1).digest


def refused(name: str, weights: object) -> str:
    """The one line with which weights are refused."""
    with pytest.raises(ModelError) as caught:
        load_backbone(name, str(weights), 0, 1)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert len(text) < 1000
    return text


def nested(prefix: str, state: State) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_tensors_have_one_digest_in_every_format(name: str, tmp_path: Path) -> None:
    state = state_of(name)
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    torch.save({"model": state, "epoch": 3}, tmp_path / "a.ckpt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "safetensors-in.bin")
    found = {path.name: digest(name, str(path)) for path in tmp_path.iterdir()}
    assert len(found) == 5
    assert set(found.values()) == {digest(name, "random:9")}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "visual.", "backbone.", "state_dict.model.encoder.", "0."])
def test_what_stands_before_the_names_is_taken_off_and_said(
    name: str, prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state, path = state_of(name), tmp_path / "w.safetensors"
    save_file({**nested(prefix, state), "optimizer.step": torch.ones(1)}, path)
    with caplog.at_level(logging.INFO, "flwr"):
        assert digest(name, str(path)) == digest(name, "random:9")
    (line,) = [record.getMessage() for record in caplog.records if str(path) in record.getMessage()]
    assert line.endswith(f"took the {len(state)} of {len(state) + 1} tensors under {prefix}")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 1, "lr": [0.1]},
        lambda state: {"model": nested("module.", state), "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
        lambda state: {"model_state_dict": {"backbone": state}, "head": {"weight": torch.ones(3)}},
    ],
)
def test_training_checkpoints_are_searched_for_the_network(wrap: Callable[[State], object], tmp_path: Path) -> None:
    torch.save(wrap(state_of()), tmp_path / "w.pt")
    assert digest("lenet", str(tmp_path / "w.pt")) == digest("lenet", "random:9")


def test_several_networks_in_one_file_are_not_guessed_among(tmp_path: Path) -> None:
    both, path = {"model": state_of(seed=1), "model_ema": state_of(seed=2)}, tmp_path / "w.pt"
    torch.save(both, path)
    assert "hold 2 networks that fit, with model., model_ema. before their names" in refused("lenet", path)
    both["model"] = {name: tensor[:1] for name, tensor in both["model"].items()}
    torch.save(both, path)
    assert digest("lenet", str(path)) == digest("lenet", "random:2")


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", NETWORKS)
def test_missing_and_unexpected_tensors_and_other_shapes_are_all_shown(name: str, prefix: str, tmp_path: Path) -> None:
    state, path = state_of(name), tmp_path / "w.safetensors"
    first, *_, second, last = state
    state[second] = torch.zeros(2, 3)
    del state[first]
    state |= {f"fc.{i}": torch.zeros(1) for i in range(5)}
    save_file(nested(prefix, state), path)
    text = refused(name, path)
    size = len(state) - 4
    assert f"1 of its {size} tensors are missing ({first})" in text
    assert f"5 of the {len(state)} in the file are unexpected (fc.0, fc.1, fc.2 and 2 more)" in text
    assert f"1 have another shape ({second}: (2, 3), here (" in text
    assert last not in text


def test_a_classifier_of_any_size_is_left_out(tmp_path: Path) -> None:
    for name in ("letters-vit", "test_vit"):
        width = build_parts(name, "random", 0, 1).split.features
        head = {"head.weight": torch.ones(7, width), "head.bias": torch.ones(7)}
        torch.save({"state_dict": nested("module.", state_of(name) | head)}, tmp_path / "w.pth")
        assert digest(name, str(tmp_path / "w.pth")) == digest(name, "random:9")


@pytest.mark.parametrize("name", NETWORKS)
def test_floats_of_any_width_are_converted_and_integers_refused(name: str, tmp_path: Path) -> None:
    state = state_of(name)
    half = {key: tensor.bfloat16() for key, tensor in state.items()}
    for kind in (torch.float64, torch.float16, torch.bfloat16):
        narrow = {key: tensor.to(kind) for key, tensor in state.items()}
        torch.save(narrow, tmp_path / "w.pth")
        save_file(narrow, tmp_path / "w.safetensors")
        save_file({key: tensor.float() for key, tensor in narrow.items()}, tmp_path / "wide.safetensors")
        same = {digest(name, str(tmp_path / file)) for file in ("w.pth", "w.safetensors", "wide.safetensors")}
        assert len(same) == 1
    key = next(key for key, tensor in state.items() if tensor.dim() > 1)
    torch.save(half | {key: state[key].to(torch.int8)}, tmp_path / "w.pth")
    assert f"1 are of another kind ({key}: int8, here float32)" in refused(name, tmp_path / "w.pth")
    torch.save(half | {key: state[key].to_sparse()}, tmp_path / "w.pth")
    assert f"tensor {key} is no plain one (float32, sparse_coo, cpu)" in refused(name, tmp_path / "w.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
@pytest.mark.parametrize("name", NETWORKS)
def test_values_that_are_not_finite_are_refused_by_name_and_count(name: str, value: float, tmp_path: Path) -> None:
    state = {key: tensor.double() for key, tensor in state_of(name).items()}
    first, second = list(state)[1:3]
    state[first].view(-1)[:4] = value
    state[second].view(-1)[0] = value
    torch.save(state, tmp_path / "w.pth")
    text = refused(name, tmp_path / "w.pth")
    assert f"4 of the {state[first].numel():,} values of {first} are NaN or infinite as float32, and 1 more" in text


def test_counters_may_be_floats_if_they_are_whole(tmp_path: Path) -> None:
    state, path = state_of("test_resnet"), tmp_path / "w.pth"
    torch.save({key: tensor.float() for key, tensor in state.items()}, path)
    assert digest("test_resnet", str(path)) == digest("test_resnet", "random:9")
    torch.save(state | {"bn1.num_batches_tracked": torch.tensor(0.5)}, path)
    assert "bn1.num_batches_tracked: float32, here int64" in refused("test_resnet", path)


class Loud(nn.Module):
    """Pickled as a whole, as `torch.save(model)` does."""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (Loud(), "Python objects beside its tensors (tests.test_weight_formats.Loud)"),
        ({"state_dict": state_of(), "args": argparse.Namespace(lr=1)}, "(argparse.Namespace)"),
        ({"epoch": 3}, "holds no tensors"),
        ([torch.ones(3)], "holds no tensors"),
        (torch.ones(3), "1 of the 1 in the file are unexpected"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_of_other_things_run_no_code_and_say_what_to_do(
    content: object, said: str, zipped: bool, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    text = refused("lenet", tmp_path / "w.pt")
    assert said in text
    assert ("safetensors.torch.save_file" in text) == ("Python objects" in text)


def test_damaged_files_and_other_formats_are_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save(state_of(), whole)
    contents = {
        "empty.safetensors": b"",
        "empty.pth": b"",
        "half.pth": whole.read_bytes()[:5000],
        "pointer.bin": b"version https://git-lfs.github.com/spec/v1\n",
        "page.safetensors": b"<!DOCTYPE html><html></html>",
        "pickle.ckpt": pickle.dumps({"a": {1, 2}}),
        "huge.safetensors": (2**62).to_bytes(8, "little") + b"{}",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        text = refused("lenet", tmp_path / name)
        assert "is the file complete?" in text or "Python objects" in text, name
    torch.save(state_of(), tmp_path / "torch.safetensors")
    assert refused("lenet", tmp_path / "torch.safetensors").endswith(
        "is a file of torch.save: let its name end in .pth"
    )
    for name in ("w.npz", "w.h5", "w", "model.safetensors.index.json"):
        (tmp_path / name).write_bytes(b"x")
        assert "weights are read from files that end in .safetensors, .pth, " in refused("lenet", tmp_path / name)
    for missing in (
        tmp_path / "none.pth",
        tmp_path,
        "Default",
        "x" * 5000,
        "a\0b",
        "~nobody-here/w.pth",
        "https://x/w.pt",
    ):
        assert "there is no file at" in (text := refused("test_vit", missing)) or "is no path" in text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf-hub:timm/test_vit.r160_in1k", "as test_vit.r160_in1k; a file of another repository"),
        ("hf_hub:timm/test_vit", "as test_vit;"),
        ("hf-hub:somebody/own", "as MODEL.TAG of timm or open_clip:MODEL/TAG;"),
        ("local-dir:/srv/model", "models are named without where they come from"),
        ("timm/test_vit", "as test_vit;"),
        ("timm:test_vit", "as test_vit;"),
        ("https://huggingface.co/timm/test_vit", "as test_vit;"),
        ("test_vitt", "timm knows no such model; near it are test_vit"),
        ("test_vit.nonsense", "timm knows no such weights; test_vit has r160_in1k"),
        (".", "timm knows no such model"),
        ("open_clip:hf-hub:org/name", "models are named without where they come from, as open_clip:MODEL/TAG"),
        ("open_clip:hf-hub:", "models are named without where they come from, as open_clip:MODEL/TAG"),
        ("open_clip:local-dir:/srv/model", "models are named without where they come from, as open_clip:MODEL/TAG"),
        ("open_clip:local-dir:", "models are named without where they come from, as open_clip:MODEL/TAG"),
        ("open_clip:ViT-B32/openai", "open_clip knows no such model; near it are ViT-B-32"),
        ("open_clip:ViT-B-32/opnai", "open_clip knows no such weights; ViT-B-32 has openai"),
        ("open_clip:", "open_clip knows no such model"),
    ],
)
@pytest.mark.parametrize("weights", ["default", "random"])
def test_names_that_are_none_are_refused_without_a_network(
    name: str, said: str, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise AssertionError("the network is asked")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(time, "sleep", unreachable)
    assert said in refused(name, weights)
    with pytest.raises(ModelError):
        outline(name)


def test_what_a_library_raises_is_one_line_and_what_ends_a_process_is_not_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def raising(error: BaseException) -> Callable[..., None]:
        def create(*_: object, **__: object) -> None:
            raise error

        return create

    long = RuntimeError("first line\n" + "x " * 900 + "\nthe reason stands at the end")
    for module, name in ((timm_models.timm, "create_model"), (backbones, "split_model")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, raising(long))
            text = refused("test_vit", "random")
            assert "first line" in text
            assert text.endswith("the reason stands at the end")
            for kind in (KeyError("patch"), AttributeError(), NotImplementedError("no")):
                patch.setattr(module, name, raising(kind))
                assert "backbone 'test_vit' cannot be" in refused("test_vit", "random")
            for fatal in (MemoryError(), KeyboardInterrupt()):
                patch.setattr(module, name, raising(fatal))
                with pytest.raises(type(fatal)):
                    load_backbone("test_vit", "random", 0, 1)


def test_reasons_are_short_and_have_both_ends() -> None:
    assert reason_of(KeyError("x")) == "KeyError: 'x'"
    assert reason_of(EOFError()) == "EOFError"
    assert reason_of(ValueError("two\n  lines\x1b")) == "two lines\\x1b"
    long = reason_of(ValueError("a" * 1000 + "end"))
    assert len(long) == 300
    assert long.startswith("aaa")
    assert long.endswith("aend")


def test_names_of_other_networks_are_left_to_the_library(tmp_path: Path) -> None:
    tensors = {"a.b": torch.ones(1), "c": torch.ones(1)}
    assert network_tensors(tensors, {"x": torch.ones(1)}, tmp_path) == tensors
