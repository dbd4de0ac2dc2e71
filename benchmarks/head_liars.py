"""What clients that lie in the head round do to the head, with the screening and without.

    python -m benchmarks.head_liars --data ../shared/data    # ten minutes of one core; -> results/head-liars.json

Ten clients, of which one or two lie; the demo's digits, and ViT-Tiny at 96 pixels on 4,000 images of CIFAR-10 where the
data are there. Three seeds of the split. Accuracy of the head on the test images, in per cent.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.data import open_split
from common.models.activations import Activations
from common.models.backbone import load_backbone
from common.models.heads import HEADS, FittedHead, Statistics
from common.models.heads.moments import Moments, measure_moments, pack_moments
from deltamask_client.partition import partition_indices
from deltamask_server.limits import ClientLimits

RESULT = Path(__file__).parent / "results" / "head-liars.json"
KINDS = ("ridge", "mean", "linear-probe")
CLIENTS, CLASSES, SEEDS, MANY = 10, 10, (1, 2, 3), 10**9
Features = tuple[torch.Tensor, torch.Tensor]
SPLITS: dict[str, dict[str, Any]] = {
    "even": {"partitioner": "iid"},
    "Dirichlet 0.1": {"partitioner": "dirichlet", "dirichlet_alpha": 0.1},
    "two classes each": {"partitioner": "pathological", "classes_per_client": 2},
}
LABELS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "rolled labels": lambda y: (y + 1) % CLASSES,
    "opposite labels": lambda y: CLASSES - 1 - y,
}
PARTS = {"train": 4000, "test": 2000}
DEFENCES = {"off": ClientLimits(), "on": ClientLimits(4.0, True)}


def features_of(source: str, part: str, limit: int, model: tuple[str, str, int, int], cache: Path) -> Features:
    """Features of the frozen backbone, and labels."""
    backbone = load_backbone(*model)
    split = open_split(source, part, backbone.spec.size, cache)
    loaded = split.load(split.balanced(limit))
    activations = Activations(backbone, loaded.images, folder=cache, batch_size=64)
    found = torch.cat([backbone.unmasked_features(tokens) for _, tokens in activations.batches(64)])
    return found, torch.from_numpy(loaded.labels.astype(np.int64))


def lies(name: str, kind: FittedHead, x: torch.Tensor, y: torch.Tensor) -> Iterator[tuple[str, Statistics]]:
    """Every lie about these images that the server's checks of one reply let pass."""
    for lie, relabel in LABELS.items():
        for claim in (len(y), MANY):
            label = lie if claim == len(y) else f"{lie}, 1e9 examples"
            yield label, _claimed(name, kind, x, relabel(y), claim)
    if name == "linear-probe":
        values = np.frombuffer(kind.statistics(x, y, CLASSES), "<f4").astype(np.float64)
        yield "opposite head", Statistics((-values).astype("<f4").tobytes(), len(y))
        yield "values up to 1e6", Statistics((-values / np.abs(values).max() * 1e6).astype("<f4").tobytes(), len(y))
        return
    moments = measure_moments(x, y, CLASSES, name == "ridge")
    wide = Moments(moments.counts, moments.means, moments.within * 1e9)
    yield "scatter times 1e9", Statistics(pack_moments(wide), len(y))
    far = Moments(moments.counts, moments.means / np.abs(moments.means).max() * 1e6, moments.within)
    yield "means up to 1e6", Statistics(pack_moments(far), len(y))


def _claimed(name: str, kind: FittedHead, x: torch.Tensor, y: torch.Tensor, examples: int) -> Statistics:
    if name == "linear-probe":
        return Statistics(kind.statistics(x, y, CLASSES), examples)
    moments = measure_moments(x, y, CLASSES, name == "ridge")
    times = max(1, examples // len(y))
    many = replace(moments, counts=moments.counts * times, within=moments.within * times)
    return Statistics(pack_moments(many), int(many.counts.sum()))


def accuracy(
    kind: FittedHead, sent: dict[int, Statistics], liars: int, limits: ClientLimits, test: Features
) -> tuple[float, int, int]:
    """Of the head on the test images; and how many honest clients and liars are left out or count for less."""
    shape = (CLASSES, test[0].shape[1])
    verdicts = limits.judge(kind, sent, shape)
    counted = [sent[client]._replace(factor=verdict.factor) for client, verdict in verdicts.items() if verdict.factor]
    head = kind.combine(counted, *shape)
    limited = [client for client, verdict in verdicts.items() if verdict.factor < 1]
    found = (head(test[0]).argmax(1) == test[1]).float().mean().item()
    return found, sum(client >= liars for client in limited), sum(client < liars for client in limited)


def measure(data: str, train: Features, test: Features) -> Iterator[dict[str, Any]]:
    """Every kind of head, split and lie."""
    labels: NDArray[np.int64] = train[1].numpy()
    for name in KINDS:
        kind = HEADS[name]()
        assert isinstance(kind, FittedHead)
        for split, how in SPLITS.items():
            found: dict[tuple[str, int], dict[str, list[tuple[float, int, int]]]] = {}
            for seed in SEEDS:
                honest, lying = {}, {}
                for client in range(CLIENTS):
                    own = partition_indices(labels, num_partitions=CLIENTS, partition_id=client, seed=seed, **how)
                    x, y = train[0][own], train[1][own]
                    honest[client] = Statistics(kind.statistics(x, y, CLASSES), len(y))
                    if client < 2:
                        lying[client] = dict(lies(name, kind, x, y))
                plans = [("honest", 0), *((lie, liars) for lie in lying[0] for liars in (1, 2))]
                for lie, liars in plans:
                    sent = honest | {client: lying[client][lie] for client in range(liars)}
                    for defence, limits in DEFENCES.items():
                        row = found.setdefault((lie, liars), {}).setdefault(defence, [])
                        row.append(accuracy(kind, sent, liars, limits, test))
            for (lie, liars), by_defence in found.items():
                yield {
                    "data": data,
                    "head": name,
                    "split": split,
                    "lie": lie,
                    "liars": liars,
                    **{
                        defence: [round(100 * accuracy, 2) for accuracy, _, _ in runs]
                        for defence, runs in by_defence.items()
                    },
                    "honest limited": sum(honest for _, honest, _ in by_defence["on"]),
                    "liars limited": sum(caught for _, _, caught in by_defence["on"]),
                }


def table(rows: list[dict[str, Any]], head: str) -> str:
    """Of one kind of head, as Markdown: without the screening, and with it; means over the seeds."""
    columns = list(dict.fromkeys((row["data"], row["split"]) for row in rows))
    cells: dict[str, dict[tuple[str, str], str]] = {}
    for row in rows:
        if row["head"] == head:
            who = f"{row['liars']}: {row['lie']}" if row["liars"] else "nobody"
            found = f"{fmean(row['off']):.1f} -> {fmean(row['on']):.1f}"
            cells.setdefault(who, {})[row["data"], row["split"]] = found
    lines = [f"| `{head}` | {' | '.join(', '.join(column) for column in columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {who} | {' | '.join(by[column] for column in columns)} |" for who, by in cells.items()]
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with cifar10_10k.npz and ViT-Tiny's weights")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory(prefix="deltamask-head-liars-") as place:
        cache = Path(place)
        sources = [("digits", "digits", ("letters-vit", "default", 0, 2))]
        if args.data:
            weights = str(args.data / "vit_tiny_patch16_224.safetensors")
            tiny = ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", weights, 96, 5)
            sources.append(("CIFAR-10", f"npz:{args.data / 'cifar10_10k.npz'}", tiny))
        for data, source, model in sources:
            train, test = (features_of(source, part, most, model, cache) for part, most in PARTS.items())
            rows += list(measure(data, train, test))
    RESULT.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for head in KINDS:
        print(table(rows, head), end="\n\n")


if __name__ == "__main__":
    main()
