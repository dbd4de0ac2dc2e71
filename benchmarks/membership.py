"""Can it be told which images a model was trained on? Membership inference, with privacy and without.

    python -m benchmarks.membership run      # half an hour of one core; -> results/membership.json
    python -m benchmarks.membership table

The demo's network on half of the demo's training digits, drawn at random; the other half are the images that were not
trained on. Ten clients, ten rounds, three seeds. The attack is the oldest one, and needs nothing but the model (Yeom et
al., arXiv 1709.01604): an image whose loss is low was trained on. Three models are attacked: the head alone, the global
model that clients were sent for the last round, and what the server sees of a single client, that model plus the change
that the client's last payload says. Members are all images trained on, or those of that client.

Of a guess by lot the area under the curve is 0.5, and a threshold that takes 1 % of the others for members finds 1 % of
the members.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from flwr.app import Message
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from benchmarks.in_process import Node, run_in_process
from common.codecs import SharedState, codec_of
from common.config.node import NodeConfig, parse_node_config
from common.config.run import RunConfig
from common.data import open_split
from common.methods.private.config import PrivacySection
from common.methods.private.response import change_of, unpack_responses
from common.models.accuracy import logits_of
from common.subset import share_code, subset
from common.theta import ONE, probabilities
from deltamask_client.methods.deltamask.store import Held, ThetaStore
from deltamask_client.site import Site, activations_of, load_site

RESULT = Path(__file__).parent / "results" / "membership.json"
CLIENTS, ROUNDS, SEEDS, RUN_ID = 10, 10, (1, 2, 3), 1
COMMON: dict[str, Any] = {"num-server-rounds": ROUNDS, "validation-fraction": 0.0, "eval-every": ROUNDS}
PRIVATE: dict[str, Any] = {"method": "private", "head": "mean", "screen-heads": False}
RUNS: dict[str, dict[str, Any]] = {
    "not private": {},
    "not private, head `mean`": {"head": "mean"},
    "epsilon 64": PRIVATE | {"privacy-epsilon": 64.0},
    "epsilon 8": PRIVATE | {"privacy-epsilon": 8.0},
    "epsilon 1": PRIVATE | {"privacy-epsilon": 1.0},
}
MODELS = ("head alone", "global model", "one client's update")


def write_halves(path: Path, seed: int, cache: Path) -> str:
    """Half of the training digits to train on, the other half in the place of test images; as a dataset."""
    split = open_split("digits", "train", 8, cache)
    images = split.load(np.arange(len(split.labels)))
    order = np.random.default_rng(seed).permutation(len(images.labels))
    parts = {"train": order[: len(order) // 2], "test": order[len(order) // 2 :]}
    np.savez(
        path,
        **{f"x_{part}": images.images[chosen] for part, chosen in parts.items()},
        **{f"y_{part}": images.labels[chosen] for part, chosen in parts.items()},
    )
    return f"npz:{path}"


def attack(config: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Run a federation, and attack what it leaves."""
    cache = folder / "cache"
    config = COMMON | config | {"seed": seed, "dataset": write_halves(folder / "digits.npz", seed, cache)}
    nodes = [
        {"partition-id": k, "num-partitions": CLIENTS, "noise-seed": seed, "cache-dir": str(cache)}
        for k in range(CLIENTS)
    ]
    last: dict[int, bytes] = {}  # payloads: of replies that were read nothing is kept

    def listening(number: int, node: Node) -> Node:
        def answer(message: Message) -> list[Message]:
            replies = node(message)
            if message.metadata.message_type == "train":
                order = message.content.config_records["round"]
                payload = replies[0].content.config_records["parts"]["payload"]
                assert isinstance(payload, bytes)
                last[number] = payload
                slots[number] = int(order["slot"])  # type: ignore[call-overload]
            return replies

        return answer

    slots: dict[int, int] = {}
    results = run_in_process(folder, config, nodes, run_id=RUN_ID, wrap=listening)
    run = RunConfig(**{key.replace("-", "_"): value for key, value in config.items()})
    sites = [(parse_node_config(node), load_site(run, parse_node_config(node), ())) for node in nodes]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in MODELS}
    others = _others(run, *sites[0])
    for node, site in sites:
        held = ThetaStore(node.cache_path, node.partition_id, RUN_ID).load()
        assert held is not None
        payload = last[node.partition_id]
        seen = held.version.theta / ONE + _change(run, held, site, payload, slots[node.partition_id]) / ONE
        models = {
            "head alone": np.ones(len(held.version.theta), np.float32),
            "global model": probabilities(held.version.theta),
            "one client's update": np.clip(seen, 0, 1).astype(np.float32),
        }
        for name, multiplier in models.items():
            scores = [-_losses(run, one, multiplier, held) for one in (site, others)]
            found[name].append(figures(*scores))
    return {
        "accuracy": results["rounds"][-1]["accuracy"]["mean"],
        "head_accuracy": results["linear_probe"]["accuracy"],
        **{name: {key: fmean(one[key] for one in each) for key in each[0]} for name, each in found.items()},
    }


def figures(members: NDArray[np.float64], others: NDArray[np.float64]) -> dict[str, float]:
    """Area under the curve, and the share of members found where 1 % of the others are taken for some."""
    truth = np.r_[np.ones(len(members)), np.zeros(len(others))]
    scores = np.r_[members, others]
    wrong, right, _ = roc_curve(truth, scores)
    return {"auc": float(roc_auc_score(truth, scores)), "found_at_1%": float(right[wrong <= 0.01].max())}


def _others(run: RunConfig, node: NodeConfig, site: Site) -> Site:
    data, side = run.data, site.backbone.spec.size
    split = open_split(data.dataset, "test", side, node.cache_path, pixel_range=data.black_and_white)
    loaded = split.load(np.arange(len(split.labels)))
    activations = activations_of(run, node, site.backbone, loaded.images, loaded.identity)
    return Site(site.backbone, activations, loaded.labels.astype(np.int64), site.classes, 0)


def _change(run: RunConfig, held: Held, site: Site, payload: bytes, slot: int) -> NDArray[np.int32]:
    """What the server reads out of a client's payload of the last round."""
    theta = held.version.theta
    if run.method.name == "private":
        keys = run[PrivacySection]
        at = subset(len(theta), share_code(keys.response_share), run.rounds.seed, ROUNDS)
        bits = unpack_responses(payload, len(theta), len(at), ROUNDS, slot, held.version.digest)
        return change_of(bits, at, len(theta), keys.response_amplitude)
    shared = SharedState.of(held.version, run.rounds.seed, ROUNDS, slot, site.backbone.masks.segments)
    return codec_of(payload).change(payload, shared)


def _losses(run: RunConfig, site: Site, multiplier: NDArray[np.float32], held: Held) -> NDArray[np.float64]:
    site.backbone.masks.set_multiplier(torch.from_numpy(multiplier))
    logits = logits_of(site.backbone.tail, held.head, site.activations, run.evaluation.eval_batch_size)
    losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(site.labels), reduction="none")
    return losses.double().numpy()


def table() -> str:
    """What is kept, as Markdown: means of the seeds."""
    kept = json.loads(RESULT.read_text(encoding="utf-8"))
    lines = [
        "| run | seeds | accuracy, head -> last round, % | " + " | ".join(MODELS) + " |",
        "|---|---|---|" + "---|" * len(MODELS),
    ]
    for name in RUNS:
        runs = [run for key, run in kept.items() if key.rpartition(", seed ")[0] == name]
        if runs:
            cells = [
                f"{fmean(run[model]['auc'] for run in runs):.3f}, "
                f"{100 * fmean(run[model]['found_at_1%'] for run in runs):.1f} %"
                for model in MODELS
            ]
            head, after = (100 * fmean(run[key] for run in runs) for key in ("head_accuracy", "accuracy"))
            lines.append(f"| {name} | {len(runs)} | {head:.1f} -> {after:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what is not kept yet, or print what is."""
    parser = argparse.ArgumentParser(description="Membership inference on federations of the demo.")
    parser.add_argument("command", choices=("run", "table"))
    args = parser.parse_args()
    if args.command == "run":
        kept = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
        for seed in SEEDS:
            for name, config in RUNS.items():
                if (key := f"{name}, seed {seed}") not in kept:
                    with tempfile.TemporaryDirectory(prefix="deltamask-membership-") as folder:
                        kept[key] = attack(config, seed, Path(folder))
                    RESULT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(table())


if __name__ == "__main__":
    main()
