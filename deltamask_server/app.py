"""The ServerApp: parse the config, enrol clients, fit the head, train masks, evaluate, write the run's folder."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from common.config import RunConfig, default_cache_path, parse_run_config
from common.data import load_dataset
from common.errors import DeltaMaskError
from common.models import cached_activations, load_backbone
from deltamask_server.console import HEADER, head_name, round_line, summary
from deltamask_server.enrolment import Enrolment
from deltamask_server.evaluation import Evaluator
from deltamask_server.run_folder import RunFolder
from deltamask_server.strategy import DeltaMask, RoundReport

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
    folder.set_model(backbone.name, backbone.digest, backbone.masks.segments)
    data = load_dataset(config.dataset, config.train_limit, config.test_limit)
    activations = cached_activations(backbone, data.x_test, default_cache_path(), config.eval_batch_size)
    evaluator = Evaluator(backbone, activations, data.y_test, config.eval_batch_size)

    enrolment = Enrolment(backbone.digest, backbone.masks.d, config.min_clients, config.node_wait_seconds, say=print)
    strategy = DeltaMask(
        enrolment,
        segments=backbone.masks.segments,
        classes=data.classes,
        features=backbone.features,
        downlink=config.downlink,
        seed=config.seed,
        participation=config.participation,
        quorum=config.min_clients,
        initial_theta=config.initial_theta,
        theta_clip=config.theta_clip,
        prior=config.prior,
        head_kind=config.head,
        frozen_head_rounds=config.frozen_head_rounds,
    )
    strategy.summary()
    print(
        f"codec {config.codec}, downlink {config.downlink}, backbone {backbone.name} ({backbone.digest.hex()}), "
        f"{len(data.x_test):,} test images of {data.classes} classes"
    )

    begun = time.perf_counter()
    tally = strategy.fit_head(grid, config.round_timeout_seconds)
    probe = evaluator.linear_probe(strategy.head)
    folder.set_linear_probe(probe, tally, time.perf_counter() - begun)
    print(f"{head_name(folder.results)} of {len(tally.payload_bytes)} clients: accuracy {probe:.4f}")
    print(HEADER)

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round % config.eval_every and server_round != config.num_server_rounds:
            return None
        return MetricRecord({**evaluator.mask_forms(strategy.theta, strategy.head, config.seed, server_round)})

    def record(report: RoundReport) -> None:
        print(round_line(folder.add_round(report)), flush=True)

    strategy.start(
        grid,
        strategy.arrays(),
        config.num_server_rounds,
        config.round_timeout_seconds,
        evaluate_fn=evaluate,
        on_round=record,
    )
    folder.save_model(strategy.theta, strategy.head)
