"""A simulation of many runs of the app at once on one GPU, for `benchmarks.sweep`.

All clients of many runs are trained in one batch of networks, in TF32; flips are drawn from torch's generator; and in
the place of a codec's bytes there is the entropy of the flips given layer and distance from theta, about twice what
`exact` takes, and 1.45 times the KL for `relative`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.experiments.methods import COMMON, DATA
from benchmarks.experiments.sites import SPLITS
from common.aggregation.flips import power_of_two
from common.data.sources import open_split
from common.models.backbone import load_backbone
from common.models.heads.moments import measure_moments
from common.models.heads.ridge import Ridge
from common.models.preprocess import preprocess
from common.selection import cosine
from deltamask_client.methods.deltamask.scale import gradient_scale
from deltamask_client.partition import partition_indices

__all__ = ["Images", "Network", "Way", "simulate"]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLIENTS, BATCH, ROUNDS, START, CLIP = 10, 16, 12, 0.95, 0.01


class Way(NamedTuple):
    """One run; the defaults are those of the app's training without its budget."""

    data: str = "cifar10"
    split: str = "a0.1"
    seed: int = 1
    step: float = 120.0
    decay: float = 0.1
    """Last step over the first."""
    codec: str = "exact"
    """Or ``relative``; ``float`` averages probabilities themselves."""
    gain: float = 1.0
    left_out: float = 0.0
    least_change: float = 0.0
    """Changes up to this are taken back, whatever their share."""
    calibration: float = 1.0
    vacant: float = 0.0
    """FedVLS's distillation among vacant classes."""
    not_true: float = 0.0
    """FedNTD's distillation among all classes but the true one (arXiv 2106.03097)."""
    penalty: float = 0.0
    server_momentum: float = 0.0
    local_momentum: float = 0.9
    equal: bool = False
    """Clients count once instead of by their images."""


class Site(NamedTuple):
    """A client of a run."""

    run: int
    images: Any
    labels: Any


class Network:
    """The tail of the app's ViT-Tiny, for many sets of masked weights at once."""

    def __init__(self, data: Path) -> None:
        weights = str(data / str(COMMON["weights"]))
        self.backbone = load_backbone(str(COMMON["backbone"]), weights, 96, 5, DEVICE)
        self.backbone.masks.unmask()
        tail, masks = self.backbone.tail, self.backbone.masks
        self.weights, self.sizes = masks.weights().to(DEVICE), list(masks.segments)
        self.shapes = [tuple(score.shape) for score in masks.parameters()]
        blocks = [module for module in tail.modules() if type(module).__name__ == "Block"]
        self.norms = [(block.norm1, block.norm2) for block in blocks]
        self.biases = [
            layer.bias for block in blocks for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2)
        ]
        self.last = [module for module in tail.modules() if isinstance(module, torch.nn.LayerNorm)][-1]
        self.layer = torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes)).to(DEVICE)

    def __call__(self, flat: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Features ``(m, b, width)`` of tokens ``(m, b, length, width)`` for masked weights ``(m, d)``."""
        weights = [
            part.view(len(flat), *shape) for part, shape in zip(flat.split(self.sizes, 1), self.shapes, strict=True)
        ]
        m, b, length, width = tokens.shape
        x = tokens.reshape(m, b * length, width)

        def linear(h: torch.Tensor, number: int) -> torch.Tensor:
            bias = self.biases[number].view(1, 1, -1).expand(m, 1, -1)
            return torch.baddbmm(bias, h, weights[number].transpose(1, 2))

        for number, (first, second) in enumerate(self.norms):
            q, k, v = linear(first(x), 4 * number).view(m * b, length, 3, -1, 64).permute(2, 0, 3, 1, 4)
            seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(m, b * length, width)
            x = x + linear(seen, 4 * number + 1)
            x = x + linear(F.gelu(linear(second(x), 4 * number + 2)), 4 * number + 3)
        features: torch.Tensor = self.last(x.view(m, b, length, width)[:, :, 0])
        return features


class Images:
    """A data set as the tail sees it, with its head."""

    def __init__(self, network: Network, data: Path, name: str, cache: Path) -> None:
        backbone = network.backbone
        self.tokens, self.labels = {}, {}
        for part, limit in (("train", COMMON["train-limit"]), ("test", COMMON["test-limit"])):
            split = open_split(f"npz:{data / DATA[name]}", part, 96, cache)
            loaded = split.load(split.balanced(int(limit)))
            with torch.no_grad():
                batches = np.array_split(np.array(loaded.images), max(1, len(loaded.labels) // 250))
                done = [backbone.prefix(preprocess(batch, backbone.spec).to(DEVICE)).bfloat16() for batch in batches]
            self.tokens[part], self.labels[part] = torch.cat(done), loaded.labels
        self.targets = {part: torch.from_numpy(labels).to(DEVICE) for part, labels in self.labels.items()}
        backbone.masks.unmask()
        with torch.no_grad():
            features = torch.cat([backbone.tail(part.float()) for part in self.tokens["train"].split(250)]).cpu()
        head = Ridge().head_of(measure_moments(features, torch.from_numpy(self.labels["train"]), 10, True))
        self.weight, self.bias = torch.from_numpy(head.weight).to(DEVICE), torch.from_numpy(head.bias).to(DEVICE)
        start = torch.full((backbone.masks.d,), math.log(START / (1 - START)))
        backbone.masks.load_scores(start, sampled=False)
        self.scale = gradient_scale(backbone, head, _Tokens(self.tokens["train"]), 0)  # type: ignore[arg-type]
        self.head_alone = self.accuracy(network, torch.ones(backbone.masks.d, device=DEVICE))

    @torch.no_grad()
    def accuracy(self, network: Network, multiplier: torch.Tensor) -> float:
        """On the test images."""
        right = 0
        for tokens, truth in zip(self.tokens["test"].split(1000), self.targets["test"].split(1000), strict=True):
            features = network((network.weights * multiplier)[None], tokens[None].float())[0]
            right += int((F.linear(features, self.weight, self.bias).argmax(1) == truth).sum())
        return right / len(self.labels["test"])


class _Tokens:
    """What `gradient_scale` asks of activations."""

    device = torch.device(DEVICE)

    def __init__(self, tokens: torch.Tensor) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self._tokens)

    def batch(self, index: Any) -> torch.Tensor:
        return self._tokens[torch.from_numpy(index)].float()


def simulate(network: Network, sets: dict[str, Images], ways: list[Way], cache: Path) -> list[dict[str, Any]]:
    """All rounds of some runs, side by side."""
    generator, rng = torch.Generator(DEVICE).manual_seed(1), np.random.default_rng(1)
    theta = torch.full((len(ways), len(network.weights)), START, device=DEVICE)
    velocity = torch.zeros_like(theta)
    sites = sorted(_sites(sets, ways, cache), key=lambda site: -len(site.labels))
    found: list[dict[str, Any]] = [{"accuracy": [], "bpp": []} for _ in ways]
    for server_round in range(1, ROUNDS + 1):
        scores = _train(network, sets, ways, sites, theta, server_round, rng)
        sums, total, bits = torch.zeros_like(theta), [0] * len(ways), [0.0] * len(ways)
        for site, trained in zip(sites, scores, strict=True):
            way, before = ways[site.run], theta[site.run]
            change, cost = _sent(network, way, before, torch.sigmoid(trained) - before, generator)
            weight = 1 if way.equal else power_of_two(len(site.labels))
            sums[site.run] += weight * change
            total[site.run] += weight
            bits[site.run] += cost
        for number, way in enumerate(ways):
            velocity[number] = way.server_momentum * velocity[number] + sums[number] / total[number]
            theta[number] = (theta[number] + velocity[number]).clamp(CLIP, 1 - CLIP)
            found[number]["bpp"].append(bits[number] / CLIENTS / len(network.weights))
            if server_round % 3 == 0:
                found[number]["accuracy"].append(sets[way.data].accuracy(network, theta[number]))
    return found


def _sites(sets: dict[str, Images], ways: list[Way], cache: Path) -> Iterator[Site]:
    for run, way in enumerate(ways):
        labels = sets[way.data].labels["train"]
        keys = {
            key.replace("-", "_"): value for key, value in ({"partitioner": "dirichlet"} | SPLITS[way.split]).items()
        }
        for client in range(CLIENTS):
            images = partition_indices(labels, keys["partitioner"], CLIENTS, client, seed=way.seed, cache=cache,
                                       **{k: v for k, v in keys.items() if k != "partitioner"})  # fmt: skip
            yield Site(run, images, labels[images])


def _train(
    network: Network,
    sets: dict[str, Images],
    ways: list[Way],
    sites: list[Site],
    theta: torch.Tensor,
    server_round: int,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Scores of every site after one epoch, ``(sites, d)``; largest sites first."""
    runs = torch.tensor([site.run for site in sites], device=DEVICE)

    def of(key: str) -> torch.Tensor:
        return torch.tensor([float(getattr(ways[site.run], key)) for site in sites], device=DEVICE)[:, None]

    rate = torch.tensor(
        [cosine(way.step, way.decay * way.step, server_round, ROUNDS) / sets[way.data].scale for way in ways],
        device=DEVICE,
    )[runs, None]
    counts = np.stack([np.bincount(site.labels, minlength=10) for site in sites])
    sizes = counts.sum(1)
    smooth = counts + 1e-3 * sizes[:, None] / 10
    shift = of("calibration") * torch.from_numpy(np.log(smooth / smooth.sum(1, keepdims=True))).float().to(DEVICE)
    vacant = torch.from_numpy(counts == 0).to(DEVICE)
    weight, bias = (
        torch.stack([getattr(sets[ways[site.run].data], key) for site in sites]) for key in ("weight", "bias")
    )
    table = np.full((len(sites), -(-sizes.max() // BATCH) * BATCH), -1)
    for row, site in zip(table, sites, strict=True):
        row[: len(site.images)] = rng.permutation(site.images)
    order = torch.from_numpy(table).to(DEVICE)
    strengths = {key: of(key) for key in ("vacant", "not_true")}
    received = _opinions(network, sets, ways, theta) if any(map(torch.any, strengths.values())) else None
    penalty, keep = of("penalty") / torch.from_numpy(sizes[:, None]).to(DEVICE), of("local_momentum")
    start = torch.logit(theta)
    scores, momentum = start[runs], torch.zeros(len(sites), theta.shape[1], device=DEVICE)
    for begin in range(0, table.shape[1], BATCH):
        m = int((sizes > begin).sum())
        rows = order[:m, begin : begin + BATCH]
        there, rows = rows >= 0, rows.clamp(min=0)
        tokens = torch.stack([sets[ways[sites[i].run].data].tokens["train"][rows[i]] for i in range(m)]).float()
        labels = torch.stack([sets[ways[sites[i].run].data].targets["train"][rows[i]] for i in range(m)])
        p = torch.sigmoid(scores[:m])
        masked = (network.weights * p).requires_grad_()
        logits = torch.baddbmm(bias[:m, None], network(masked, tokens), weight[:m].transpose(1, 2))
        share = there.float() / there.sum(1, keepdim=True)
        each = F.cross_entropy((logits + shift[:m, None]).flatten(0, 1), labels.flatten(), reduction="none").view(m, -1)
        if received is not None:
            opinion = received[runs[:m, None], rows]
            for key, among in (
                ("vacant", vacant[:m, None].expand_as(logits)),
                ("not_true", ~F.one_hot(labels, 10).bool()),
            ):
                each = each + strengths[key][:m] * _divergence(opinion, logits, among)
        (gradient,) = torch.autograd.grad((each * share).sum(), masked)
        slope = p * (1 - p)
        gradient = gradient * network.weights * slope
        gradient += penalty[:m] * slope * (scores[:m] - start[runs[:m]])
        momentum[:m] = keep[:m] * momentum[:m] + gradient
        scores[:m] -= rate[:m] * momentum[:m]
    return scores


def _divergence(opinion: torch.Tensor, logits: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    """KL between softmaxes over some classes, ``(m, b)``."""
    outside = torch.where(among, 0.0, -1e9)
    before, now = F.log_softmax(opinion + outside, -1), F.log_softmax(logits + outside, -1)
    return torch.where(among, before.exp() * (before - now), 0.0).sum(-1)


@torch.no_grad()
def _opinions(network: Network, sets: dict[str, Images], ways: list[Way], theta: torch.Tensor) -> torch.Tensor:
    """Logits of each run's model for all its images, ``(runs, images, 10)``."""
    found = []
    for way, probabilities in zip(ways, theta, strict=True):
        images = sets[way.data]
        parts = [
            network((network.weights * probabilities)[None], part[None].float())[0]
            for part in images.tokens["train"].split(1000)
        ]
        found.append(F.linear(torch.cat(parts), images.weight, images.bias))
    return torch.stack(found)


def _sent(
    network: Network, way: Way, theta: torch.Tensor, change: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, float]:
    """What the server makes of a client's change, and the bits that it takes."""
    size = change.abs()
    if way.left_out:
        ordered = size.sort().values
        share = ordered.double().square().cumsum(0)
        change = torch.where(size >= ordered[int(torch.searchsorted(share, way.left_out * share[-1]))], change, 0.0)
    if way.least_change:
        change = torch.where(size > way.least_change, change, 0.0)
    local = (theta + change / way.gain).clamp(1e-6, 1 - 1e-6)
    kl = float((local * (local / theta).log2() + (1 - local) * ((1 - local) / (1 - theta)).log2()).sum())
    if way.codec == "float":
        return change, kl
    u = torch.rand(len(theta), generator=generator, device=DEVICE)
    if way.codec == "relative":
        return way.gain * ((u < local).float() - theta), 1.45 * kl
    flips = (u < local).int() - (u < theta).int()
    return way.gain * flips.float(), _entropy(network, flips != 0, u, theta)


def _entropy(network: Network, flips: torch.Tensor, u: torch.Tensor, theta: torch.Tensor) -> float:
    """Bits of the flips given layer and distance from theta in sixteen steps."""
    distance = (torch.logit(u.clamp(1e-6, 1 - 1e-6)) - torch.logit(theta)).abs()
    where = flips.nonzero()[:, 0]
    if len(where) == 0:
        return 0.0
    reach = distance[where].max()
    cell = torch.where(distance <= reach, (distance / reach * 15.999).long(), 16) * len(network.sizes) + network.layer
    cells = 17 * len(network.sizes)
    total, hits = torch.bincount(cell, minlength=cells).double(), torch.bincount(cell[where], minlength=cells).double()
    p = (hits / total.clamp(min=1)).clamp(1e-12, 1 - 1e-12)
    return float(-(hits * p.log2() + (total - hits) * (1 - p).log2()).sum())
