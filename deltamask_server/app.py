"""The ServerApp: parse the config, enrol clients, fit the head, train masks, evaluate, write the run's folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from common.config import RunConfig, default_cache_path, parse_run_config
from common.data import open_split
from common.errors import DataError, DeltaMaskError
from common.models import Activations, Backbone, TailWeights, load_backbone
from common.models.backbone import build_parts
from common.models.heads.random_head import RANDOM_HEAD, random_head
from deltamask_server.console import head_name, header, round_line, summary
from deltamask_server.enrolment import Enrolment
from deltamask_server.evaluation import Evaluator
from deltamask_server.fedavg import FedAvg
from deltamask_server.hidenseek import HideNseek
from deltamask_server.lotteryfl import LotteryFL
from deltamask_server.rounds import RoundReport, RoundStrategy
from deltamask_server.run_folder import RunFolder
from deltamask_server.strategy import DeltaMask
from deltamask_server.synflow import prune

__all__ = ["app"]

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one federated training; its outcome is in ``results.json`` and in the last lines printed."""
    try:
        config = parse_run_config(context.run_config)
    except DeltaMaskError as error:
        print(f"ERROR  {error}")
        raise
    folder = RunFolder(Path(config.output_dir), context.run_id, config.model_dump(by_alias=True))
    try:
        _run(grid, config, folder)
        folder.finish("completed")
    except BaseException as error:
        folder.finish("failed", f"{type(error).__name__}: {error}")
        raise
    finally:
        print(summary(folder.results, folder.path))


def _run(grid: Grid, config: RunConfig, folder: RunFolder) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = load_backbone(config.backbone, config.weights, config.image_size, config.masked_blocks, device)
    split = open_split(config.dataset, "test", backbone.spec.size, default_cache_path())
    test = split.load(split.balanced(config.test_limit))
    if len(test.labels) == 0:
        raise DataError(f"dataset = {config.dataset!r}: none of its {test.broken} test images can be read")
    folder.set_data(split.classes, len(test.labels), test.broken)
    activations = Activations(backbone, test.images, folder=default_cache_path(), batch_size=config.eval_batch_size)
    evaluator = Evaluator(backbone, activations, test.labels, config.eval_batch_size)

    enrolment = Enrolment(
        backbone.digest, backbone.masks.d, config.min_clients, config.node_wait_seconds, print, split.classes
    )
    strategy = _strategy(config, backbone, split.classes, enrolment)
    if isinstance(strategy, HideNseek):
        folder.set_model(backbone.name, backbone.digest, strategy.segments, strategy.n)
    else:
        folder.set_model(backbone.name, backbone.digest, backbone.masks.segments)
    strategy.summary()
    print(
        f"{_coding(config)}, backbone {backbone.name} ({backbone.digest.hex()}), "
        f"{len(test.labels):,} test images of {len(split.classes)} classes"
        + (f", {test.broken:,} more could not be read" if test.broken else "")
    )

    begun = time.perf_counter()
    tally = strategy.fit_head(grid, config.round_timeout_seconds)
    probe = evaluator.linear_probe(strategy.head)
    folder.set_linear_probe(probe, tally, time.perf_counter() - begun)
    print(f"{head_name(folder.results)} of {len(tally.payload_bytes)} clients: accuracy {probe:.4f}")
    print(header(config.personal_test))

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if not config.evaluates(server_round):
            return None
        return MetricRecord({**strategy.evaluate(evaluator, server_round)})

    def record(report: RoundReport) -> None:
        print(round_line(folder.add_round(report), config.personal_test), flush=True)

    strategy.start(
        grid,
        strategy.arrays(),
        config.num_server_rounds,
        config.round_timeout_seconds,
        evaluate_fn=evaluate,
        on_round=record,
    )
    folder.save_model(strategy.tensors(), strategy.head)


def _strategy(config: RunConfig, backbone: Backbone, classes: Sequence[str], enrolment: Enrolment) -> RoundStrategy:
    """The method that the config names."""
    shared: dict[str, Any] = {
        "classes": len(classes),
        "class_names": classes,
        "validate": config.validation_fraction > 0,
        "personal_test": config.personal_test,
        "features": backbone.features,
        "head_kind": config.head,
        "seed": config.seed,
        "participation": config.participation,
        "quorum": config.min_clients,
    }
    if config.method == "hidenseek":
        return HideNseek(
            enrolment,
            backbone=backbone,
            kept=_pruned(config, len(classes), backbone.features),
            magnitudes=config.sign_magnitudes,
            momentum=config.sign_momentum,
            turn_share=config.sign_turn_share,
            by_examples=config.sign_weighting == "examples",
            upload=config.upload,
            score_init=config.score_init,
            local_only=config.local_only,
            **shared,
        )
    if config.method in ("fedavg", "lotteryfl"):
        averaging = LotteryFL if config.method == "lotteryfl" else FedAvg
        return averaging(enrolment, tail=TailWeights(backbone).read(), **shared)
    return DeltaMask(
        enrolment,
        segments=backbone.masks.segments,
        downlink=config.downlink,
        initial_theta=config.initial_theta,
        theta_clip=config.theta_clip,
        prior=config.prior,
        frozen_head_rounds=config.frozen_head_rounds,
        **shared,
    )


def _pruned(config: RunConfig, classes: int, features: int) -> NDArray[np.bool_]:
    """Which weights HideNseek keeps, of the masked ones and of a random head."""
    parts = build_parts(config.backbone, config.weights, config.image_size, config.masked_blocks)
    head = random_head(classes, features, config.seed).weight if config.head == RANDOM_HEAD else None
    return prune(parts, config.density, config.prune_passes, head)


def _coding(config: RunConfig) -> str:
    """How the model travels, for a person to read."""
    if config.method == "deltamask":
        return f"codec {config.codec}, downlink {config.downlink}"
    if config.method == "hidenseek" and config.upload == "signs":
        return f"signs as bits or by {config.sign_codec}"
    if config.method == "lotteryfl":
        return f"float32 both ways, of {config.density:g} of the weights at least"
    return "float32 both ways"
