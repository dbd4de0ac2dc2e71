"""Measure the kinds of head: ViT-Tiny on CIFAR-10, without Flower and masks' codecs.

    python -m benchmarks.heads --data ../shared/data   # three minutes of CPU -> benchmarks/results/heads.json

2,000 training images over ten clients and 1,000 test images, at 96 pixels. Four tables: accuracy on frozen features
and bytes by split; the penalty and accuracy that generalised cross-validation picks, beside leave-one-out's; how much
sharper logits would be calibrated, here and for the embedded ViT on digits; and what masked training makes of each head
at several sharpnesses (600 images in one place, two epochs, 600 test images).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.config.cache_path import default_cache_path
from common.config.run import RunConfig
from common.data import Loaded, open_split
from common.models.accuracy import loss_and_accuracy
from common.models.activations import Activations
from common.models.backbone import Backbone, load_backbone
from common.models.heads import HEADS, Head, Statistics
from common.models.heads.moments import measure_moments
from common.models.heads.ridge import solve_ridge
from common.theta import quantise
from deltamask_client.epochs import Recipe
from deltamask_client.methods.deltamask.training import train_masks
from deltamask_client.objective import adam
from deltamask_client.partition import partition_indices

RESULT = Path(__file__).parent / "results" / "heads.json"
CLIENTS, BATCH = 10, 100
KINDS = ("linear-probe", "ridge", "mean")
SPLITS: dict[str, dict[str, Any]] = {
    "IID": {"partitioner": "iid"},
    "Dirichlet 0.1": {"partitioner": "dirichlet", "dirichlet_alpha": 0.1},
    "two classes each": {"partitioner": "pathological", "classes_per_client": 2},
}
SHARPER = (0.25, 0.5, 1.0, 2.0)
"""Factors on a head's logits; 1 is the head as it is."""


def read(source: str, part: str, limit: int, backbone: Backbone) -> tuple[Loaded, Activations]:
    """Images, so many of each class, and their activations."""
    split = open_split(source, part, backbone.spec.size, default_cache_path())
    loaded = split.load(split.balanced(limit))
    return loaded, Activations(backbone, loaded.images, folder=default_cache_path(), batch_size=BATCH)


def features_of(backbone: Backbone, activations: Activations) -> torch.Tensor:
    return torch.cat([backbone.unmasked_features(tokens) for _, tokens in activations.batches(BATCH)])


def accuracy(head: Head, features: torch.Tensor, labels: np.ndarray) -> float:
    return float((head(features).argmax(1).numpy() == labels).mean())


def federate(name: str, parts: list[tuple[torch.Tensor, np.ndarray]], classes: int) -> tuple[Head, float]:
    """The head of these clients, and the mean of their bytes."""
    kind = HEADS[name]()
    replies = [Statistics(kind.statistics(x, torch.from_numpy(y), classes), len(y)) for x, y in parts]
    return kind.combine(replies, classes, parts[0][0].shape[1]), float(np.mean([len(sent.data) for sent in replies]))


def by_split(x: torch.Tensor, y: np.ndarray, x_test: torch.Tensor, y_test: np.ndarray) -> list[dict[str, Any]]:
    classes, rows = int(y.max()) + 1, []
    for split, options in SPLITS.items():
        index = [
            partition_indices(y, num_partitions=CLIENTS, partition_id=i, seed=1, **options) for i in range(CLIENTS)
        ]
        for name in KINDS:
            head, size = federate(name, [(x[i], y[i]) for i in index], classes)
            rows.append({"head": name, "split": split, "accuracy": accuracy(head, x_test, y_test), "bytes": size})
            print(rows[-1], flush=True)
    return rows


def leave_one_out(x: np.ndarray, y: np.ndarray, classes: int) -> float:
    """The penalty of `solve_ridge`'s candidates with the least squared error of leave-one-out, example by example."""
    targets = np.eye(classes)[y] - np.bincount(y, minlength=classes) / len(y)
    centred = x - x.mean(0)
    eigenvalues, axes = np.linalg.eigh(centred.T @ centred)
    along = centred @ axes

    def error(penalty: float) -> float:
        shrunk = along / (np.maximum(eigenvalues, 0) + penalty)
        leverage = 1 / len(y) + (along * shrunk).sum(1)
        residuals = (targets - shrunk @ (along.T @ targets)) / (1 - leverage)[:, None]
        return float((residuals**2).sum())

    return float(min(eigenvalues.mean() * 10.0 ** (np.arange(-16, 13) / 4), key=error))


def penalties(x: torch.Tensor, y: np.ndarray, x_test: torch.Tensor, y_test: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    for n in (100, 200, 500, 1000, 2000):
        index = np.concatenate([np.flatnonzero(y == label)[: n // 10] for label in range(10)])
        moments = measure_moments(x[index], torch.from_numpy(y[index]), 10, matrix=True)
        unit = float(np.trace(moments.total)) / x.shape[1]
        row: dict[str, Any] = {"examples": n}
        loo = leave_one_out(x[index].numpy().astype(np.float64), y[index], 10)
        for rule, fixed in (("generalised", None), ("leave-one-out", loo)):
            weight, bias, penalty = solve_ridge(moments, fixed)
            right = (x_test.numpy() @ weight.T + bias).argmax(1) == y_test
            row[rule] = {"penalty": round(penalty / unit, 4), "accuracy": float(right.mean())}
        rows.append(row)
        print(row, flush=True)
    return rows


def calibration(
    data: str, x: torch.Tensor, y: np.ndarray, x_test: torch.Tensor, y_test: np.ndarray, chosen: list[int]
) -> list[dict[str, Any]]:
    """The factor on a head's logits with the least cross-entropy on test images, for some of the classes."""
    number = np.full(int(y.max()) + 1, -1)
    number[chosen] = np.arange(len(chosen))
    train, test = np.isin(y, chosen), np.isin(y_test, chosen)
    target, rows = torch.from_numpy(number[y_test[test]]), []
    for name in ("ridge", "mean"):
        logits = federate(name, [(x[train], number[y[train]])], len(chosen))[0](x_test[test])
        factors = [10.0 ** (step / 20) for step in range(-20, 31)]
        loss = [torch.nn.functional.cross_entropy(factor * logits, target).item() for factor in factors]
        best = round(factors[int(np.argmin(loss))], 2)
        rows.append({"data": data, "classes": len(chosen), "head": name, "calibrated by": best})
        print(rows[-1], flush=True)
    return rows


def trained(
    backbone: Backbone, train: tuple[Activations, np.ndarray], test: tuple[Activations, np.ndarray]
) -> list[dict[str, Any]]:
    x, rows = features_of(backbone, train[0]), []
    for name in KINDS:
        whole, _ = federate(name, [(x, train[1])], 10)
        for sharper in SHARPER if name != "linear-probe" else (1.0,):
            head = Head(np.float32(sharper) * whole.weight, np.float32(sharper) * whole.bias)
            before = accuracy(head, features_of(backbone, test[0]), test[1])
            theta = np.full(backbone.masks.d, quantise(0.95), np.uint16)
            result = train_masks(backbone, head, *train, theta, Recipe(2, 20, adam(0.1)), seed=1)
            backbone.masks.set_multiplier(torch.from_numpy(result.theta))
            after = loss_and_accuracy(backbone.tail, head, *test, BATCH)[1]
            moved = float(np.abs(result.theta - 0.95).mean())
            rows.append({"head": name, "sharper": sharper, "before": before, "after": after, "theta moved by": moved})
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Measure the kinds of head.")
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10_10k.npz and the ViT-Tiny weights")
    data = parser.parse_args().data
    torch.set_num_threads(1)
    weights = str(data / "vit_tiny_patch16_224.safetensors")
    backbone = load_backbone(
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k", weights, 96, RunConfig().backbone.masked_blocks
    )
    cifar = f"npz:{data / 'cifar10_10k.npz'}"
    train, tokens = read(cifar, "train", 2000, backbone)
    test, test_tokens = read(cifar, "test", 1000, backbone)
    x, x_test = features_of(backbone, tokens), features_of(backbone, test_tokens)
    few, few_tokens = read(cifar, "train", 600, backbone)
    few_test, few_test_tokens = read(cifar, "test", 600, backbone)
    letters = load_backbone("letters-vit", "default", 0, 5)
    digits, digit_tokens = read("digits", "train", 0, letters)
    digits_test, digit_test_tokens = read("digits", "test", 0, letters)
    d, d_test = features_of(letters, digit_tokens), features_of(letters, digit_test_tokens)
    results = {
        "splits": by_split(x, train.labels, x_test, test.labels),
        "penalties": penalties(x, train.labels, x_test, test.labels),
        "calibration": [
            row
            for chosen in ([3, 5], [0, 8], [0, 1, 2, 3], list(range(10)))
            for row in calibration("CIFAR-10", x, train.labels, x_test, test.labels, chosen)
        ]
        + calibration("digits", d, digits.labels, d_test, digits_test.labels, list(range(10))),
        "masked training": trained(backbone, (few_tokens, few.labels), (few_test_tokens, few_test.labels)),
    }
    RESULT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
