"""From a run to a model file, and from that to a network anyone can call."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from typer.testing import CliRunner

from common.errors import ModelError
from common.models.backbone import build_parts, load_backbone
from common.models.heads import Head
from common.theta import ONE, probabilities
from deltamask_server import load_finetuned
from deltamask_server.tools.cli import app
from deltamask_server.tools.finetuned import FineTuned, needed, read_finetuned, write_finetuned
from tests.e2e.in_process import run_in_process
from tests.images import COLOURS, write_folder

RNG = np.random.default_rng(0)
CASES = [("letters-vit", 0, 2), ("test_vit", 0, 1), ("open_clip:ViT-B-32", 32, 1)]


def written(path: Path, form: str, name: str, size: int, blocks: int, weights: str) -> tuple[np.ndarray, Head]:
    backbone = load_backbone(name, weights, size, blocks)
    theta = RNG.integers(1, ONE, backbone.masks.d).astype(np.uint16)
    head = Head(RNG.standard_normal((3, backbone.features)).astype(np.float32), np.arange(3, dtype=np.float32))
    about = {"backbone": name, "image_size": size, "masked_blocks": blocks, "digest": backbone.digest.hex()}
    write_finetuned(path, form, {"theta": theta}, head, classes=("a", "b", "c"), weights=weights, **about)
    return theta, head


@pytest.mark.parametrize("form", ["mean", "mask"])
@pytest.mark.parametrize(("name", "size", "blocks"), CASES)
def test_the_plain_network_computes_what_the_run_evaluated(
    name: str, size: int, blocks: int, form: str, tmp_path: Path
) -> None:
    weights = "default" if name == "letters-vit" else "random"
    theta, head = written(tmp_path / "m.safetensors", form, name, size, blocks, weights)
    tuned = read_finetuned(tmp_path / "m.safetensors", weights)
    assert tuned.classes == ("a", "b", "c")
    backbone = load_backbone(name, weights, size, blocks)
    images = torch.randn(2, tuned.spec.channels, tuned.spec.size, tuned.spec.size)
    multiplier = probabilities(theta) if form == "mean" else (theta >= ONE // 2).astype(np.float32)
    backbone.masks.set_multiplier(torch.from_numpy(multiplier))
    with torch.no_grad():
        torch.testing.assert_close(tuned.module(images), head(backbone.tail(backbone.prefix(images))))
    assert not any("parametrizations" in key for key in tuned.module.state_dict()), "a plain network"


def test_vision_transformers_keep_their_own_head(tmp_path: Path) -> None:
    written(tmp_path / "m.safetensors", "mean", *CASES[0], "default")
    module = load_finetuned(tmp_path / "m.safetensors")
    assert type(module) is VisionTransformer
    assert isinstance(module.head, nn.Linear)
    assert module.head.out_features == 3
    assert not module.training


def test_a_mask_takes_one_bit_a_weight(tmp_path: Path) -> None:
    for form, limit in (("mean", 16), ("mask", 1)):
        theta, head = written(tmp_path / form, form, *CASES[0], "default")
        beside = head.weight.nbytes + head.bias.nbytes + 4096  # names, shapes, metadata
        assert (tmp_path / form).stat().st_size <= limit * len(theta) / 8 + beside


def test_the_one_bit_form_of_vit_b32_is_below_five_megabytes(tmp_path: Path) -> None:
    d = 5 * 12 * 768 * 768
    head = Head(np.zeros((100, 512), np.float32), np.zeros(100, np.float32))
    theta = RNG.integers(1, ONE, d).astype(np.uint16)
    about = {"backbone": "clip-vit-b32", "image_size": 0, "masked_blocks": 5, "digest": "00" * 8, "weights": "default"}
    write_finetuned(tmp_path / "m", "mask", {"theta": theta}, head, classes=(), **about)
    assert d / 8 < (tmp_path / "m").stat().st_size < 5e6


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    written(good, "mean", *CASES[1], "random")
    with pytest.raises(ModelError, match="cannot be read"):
        read_finetuned(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("no model")
    with pytest.raises(ModelError, match="cannot be read"):
        read_finetuned(tmp_path / "text")
    save_file({"x": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ModelError, match="not a fine-tuned model"):
        read_finetuned(tmp_path / "other")
    frozen = load_backbone(*("test_vit", "random", 0, 1))
    other = {key: value.clone() for key, value in frozen.prefix.state_dict().items()}
    assert other
    tensors = load_file(good)
    metadata = {"format": "deltamask-model-v1", "form": "mean", "backbone": "test_vit", "image_size": "0"}
    metadata |= {"masked_blocks": "1", "digest": "11" * 8, "classes": "[]"}
    save_file(tensors, tmp_path / "wrong", metadata)
    with pytest.raises(ModelError, match="fine-tuned from frozen weights with digest 1111"):
        read_finetuned(tmp_path / "wrong", "random")
    metadata["digest"] = frozen.digest.hex()
    save_file({key: value for key, value in tensors.items() if "qkv" not in key}, tmp_path / "part", metadata)
    with pytest.raises(ModelError, match="not a whole model file"):
        read_finetuned(tmp_path / "part", "random")
    with pytest.raises(ModelError, match="masked weights"):
        write_finetuned(
            tmp_path / "x", "mean", {"theta": np.ones(3, np.uint16)},
            Head(np.zeros((1, 1), np.float32), np.zeros(1, np.float32)),
            backbone="test_vit", image_size=0, masked_blocks=1, digest="", classes=(), weights="random",
        )  # fmt: skip


def test_a_run_on_folders_is_exported_and_names_new_images(tmp_path: Path) -> None:
    counts = dict.fromkeys(COLOURS, 12)
    test = write_folder(tmp_path / "test", dict.fromkeys(COLOURS, 4), seed=9)
    sites = [write_folder(tmp_path / f"site{k}", counts, seed=k) for k in range(2)]
    nodes = [{"partition-id": k, "num-partitions": 2, "data": f"folder:{site}"} for k, site in enumerate(sites)]
    config = {"dataset": f"folder:{test}", "num-server-rounds": 1, "local-epochs": 1}
    config |= {"backbone": "test_vit", "weights": "random", "masked-blocks": 1}
    results = run_in_process(tmp_path, config, nodes)
    assert results["status"] == "completed"

    latest, cli = tmp_path / "runs" / "latest", CliRunner()
    done = cli.invoke(app, ["export", str(latest), "--form", "mask"])
    assert done.exit_code == 0, done.output
    assert done.output.endswith("masked weights; its frozen weights are drawn again where it is used\n")
    done = cli.invoke(app, ["export", str(latest), "--out", str(tmp_path / "missing" / "mask.safetensors")])
    assert done.exit_code == 2
    assert done.output.startswith(f"Error: {tmp_path / 'missing' / 'mask.safetensors'}: cannot be written (")
    images = [str(path) for path in sorted((tmp_path / "test").glob("*/*"))]
    done = cli.invoke(app, ["predict", str(latest / "mask.safetensors"), *images, "--json"])
    assert done.exit_code == 0, done.output
    named = [json.loads(line) for line in done.output.splitlines()]
    assert [entry["image"] for entry in named] == images
    for entry in named:
        assert len(entry["classes"]) == 3
        assert {each["name"] for each in entry["classes"]} == set(COLOURS)
        assert sum(each["probability"] for each in entry["classes"]) == pytest.approx(1)
    right = sum(entry["classes"][0]["name"] == Path(entry["image"]).parent.name for entry in named) / len(named)
    assert right == pytest.approx(results["rounds"][-1]["accuracy"]["threshold"], abs=0.1)

    predict = ["predict", str(latest / "mask.safetensors"), images[0], "--weights", "random"]
    done = cli.invoke(app, [*predict, "--device", "gpu"])
    assert done.exit_code == 2
    assert done.output.startswith("Error: --device gpu: Expected one of cpu, cuda")
    assert len(done.output.splitlines()) == 1
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    done = cli.invoke(app, ["predict", str(latest / "mask.safetensors"), str(broken), images[0], "--weights", "random"])
    assert done.exit_code == 1
    assert "broken.png: cannot be read" in done.output
    assert images[0] in done.output


def test_an_export_says_which_weights_it_needs(tmp_path: Path) -> None:
    file, model = tmp_path / "ours.pth", tmp_path / "m.safetensors"
    torch.save(build_parts("lenet", "random:7", 0, 1).model.state_dict(), file)
    expected, _ = written(model, "mean", "lenet", 0, 1, str(file))
    with safe_open(model, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["weights"] == "ours.pth"
    assert str(tmp_path) not in json.dumps(metadata), "a name, and no path"
    image = tmp_path / "i.png"
    Image.new("RGB", (28, 28)).save(image)

    done = CliRunner().invoke(app, ["predict", str(model), str(image)])
    assert done.exit_code == 1
    assert re.search(r"those of the file ours\.pth \(digest \w{16}\), so name that file, by --weights", done.output)
    assert len(done.output.splitlines()) == 1
    done = CliRunner().invoke(app, ["predict", str(model), str(image), "--weights", str(file)])
    assert done.exit_code == 0, done.output
    other = tmp_path / "other.pth"
    torch.save(build_parts("lenet", "random:8", 0, 1).model.state_dict(), other)
    with pytest.raises(
        ModelError, match=r"those of lenet from '.*other\.pth' have .*; name what the run used, ours\.pth"
    ):
        load_finetuned(model, str(other))
    moved = tmp_path / "moved.safetensors"  # another format and name of the same tensors
    save_file(build_parts("lenet", "random:7", 0, 1).model.state_dict(), moved)
    first, second = (load_finetuned(model, str(path)).state_dict() for path in (file, moved))
    assert len(expected)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("weights", "recorded"), [("random:7", "random:7"), ("random", "random:0"), ("default",) * 2])
def test_drawn_and_default_weights_need_not_be_named(tmp_path: Path, weights: str, recorded: str) -> None:
    path = tmp_path / "m.safetensors"
    written(path, "mean", "lenet", 0, 1, weights)
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["weights"] == recorded
    load_finetuned(path)
    with pytest.raises(ModelError, match=f"name what the run used, {recorded}, by --weights"):
        load_finetuned(path, "random:3")


def test_model_files_of_earlier_releases_load_as_before(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    for weights in ("default", "random:7"):
        written(path, "mean", "lenet", 0, 1, weights)
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata()
        del metadata["weights"]
        save_file(load_file(path), path, metadata)
        load_finetuned(path, weights)
    with pytest.raises(ModelError, match="name the file that the run used by --weights"):
        load_finetuned(path)
    for key in ("digest", "masked_blocks"):
        save_file(load_file(path), path, {name: value for name, value in metadata.items() if name != key})
        with pytest.raises(ModelError, match=f"not a whole model file: KeyError: '{key}'"):
            load_finetuned(path)


def test_what_an_export_needs_is_one_sentence() -> None:
    cases = {
        ("letters-vit", "default"): "those that DeltaMask brings",
        ("lenet", "default"): "drawn again",
        ("letters-vit", "random:2"): "drawn again",
        ("test_vit", "default"): "on the hub: model.safetensors of https://",
        ("test_vit", "/srv/secret/vit.bin"): "use it with --weights and the run's file vit.bin",
    }
    for (name, weights), said in cases.items():
        text = needed(
            {
                "backbone": name,
                "image_size": 0,
                "masked_blocks": 1,
                "weights": weights,
                "digest": "",
                "classes": (),
            }
        )
        assert said in text
        assert "secret" not in text


def test_classes_without_names_are_numbers(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.tensor([0.0, 2.0]))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.bias.expand(len(images), 2)

    path = tmp_path / "i.png"
    Image.new("RGB", (4, 4)).save(path)
    spec = load_backbone("letters-vit", "default", 0, 1).spec
    ((name, probability),) = FineTuned(Fixed(), spec, ()).classify(path)
    assert name == "1"
    assert probability == pytest.approx(float(torch.tensor([0.0, 2.0]).softmax(0)[1]))
