"""The ServerApp: parse the config, enrol clients, fit the head, train, evaluate, write the run's folder; or go on with
a run that was stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from common.config.cache_path import default_cache_path
from common.config.run import RunConfig, parse_run_config
from common.config.shared import CheckpointSection
from common.data import open_split
from common.errors import DataError, DeltaMaskError
from common.models.accuracy import Scored
from common.models.activations import Activations
from common.models.backbone import build_parts, mask_parts
from common.models.heads import Head
from deltamask_server.checkpoints import Checkpoint
from deltamask_server.console import head_name, header, round_line, summary
from deltamask_server.enrolment import Enrolment
from deltamask_server.evaluation import Evaluator
from deltamask_server.methods import STRATEGIES
from deltamask_server.resume import checkpoints_of, find_checkpoint, load_tested, run_folder_of, save_tested
from deltamask_server.round_report import RoundReport
from deltamask_server.rounds import RoundStrategy
from deltamask_server.run_folder import RunFolder
from deltamask_server.setting import Setting

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
    folder, found = _open(config, context.run_id)
    try:
        _run(grid, config, folder, found, context.run_id)
        folder.finish("completed")
    except (SystemExit, KeyboardInterrupt) as error:
        folder.finish("stopped", f"stopped from outside ({type(error).__name__})")
        raise
    except BaseException as error:
        folder.finish("failed", f"{type(error).__name__}: {error}")
        raise
    finally:
        print(summary(folder.results, folder.path))


def _open(config: RunConfig, run_id: int) -> tuple[RunFolder, Checkpoint | None]:
    """A new folder, or that of the run to be resumed and what it was."""
    try:
        if not config[CheckpointSection].resume:
            return RunFolder.create(Path(config.rounds.output_dir), run_id, config.as_dict()), None
        path = run_folder_of(config)
        found = find_checkpoint(path, config)
        print(f"resuming {path} after round {found.server_round}")
        return RunFolder.take_up(path, run_id, config.as_dict(), found.server_round), found
    except DeltaMaskError as error:
        print(f"ERROR  {error}")
        raise
    except OSError as error:
        print(f"ERROR  the run's folder cannot be written: {error}; name another output-dir, or make room there")
        raise


def _run(grid: Grid, config: RunConfig, folder: RunFolder, found: Checkpoint | None, run_id: int) -> None:
    rounds, evaluation, strategy_of = config.rounds, config.evaluation, STRATEGIES[config.method.name]
    if rounds.threads:
        torch.set_num_threads(rounds.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name, which = config.backbone.backbone, config.backbone
    network = build_parts(name, which.weights, which.image_size, which.masked_blocks, device)
    data, side = config.data, network.spec.size
    split = open_split(data.dataset, "test", side, default_cache_path(), pixel_range=data.black_and_white)
    left = strategy_of.prune(network, config, len(split.classes))
    backbone = mask_parts(name, network)
    test = split.load(split.balanced(config.data.test_limit))
    if len(test.labels) == 0:
        raise DataError(f"dataset = {config.data.dataset!r}: none of its {test.broken} test images can be read")
    files = None
    if split.inventory is not None:
        duplicates = split.inventory.duplicates()
        files = split.inventory.counts(duplicates)
        print(f"test images: {split.inventory.text(duplicates)}")
    folder.set_data(split.classes, len(test.labels), test.broken, files)
    activations = Activations(backbone, test.images, folder=default_cache_path(), batch_size=evaluation.eval_batch_size)
    evaluator = Evaluator(backbone, activations, test.labels, evaluation.eval_batch_size)

    enrolment = Enrolment(
        backbone.digest,
        backbone.masks.d,
        rounds.min_clients,
        rounds.node_wait_seconds,
        print,
        split.classes,
        None if found is None else found.run,
        rounds.bind_clients,
    )
    strategy = strategy_of.from_setting(Setting(config, backbone, split.classes, enrolment, left))
    folder.set_model(name, backbone.digest, strategy.segments(backbone), strategy.kept_parameters)
    strategy.summary()
    print(
        f"{config.method.coding(config.as_dict())}, backbone {name} ({backbone.digest.hex()}), "
        f"{len(test.labels):,} test images of {len(split.classes)} classes"
        + (f", {test.broken:,} more could not be read" if test.broken else "")
    )

    checkpoints, every = checkpoints_of(folder.path, config), config[CheckpointSection].checkpoint_every
    tested: dict[int, Scored] = {}  # round -> the form of its model to use
    first_run = run_id if found is None else found.run

    def save() -> None:
        """What a run that goes on from here needs, and the model that it would end with."""
        server_round, keeper = strategy.server_round, strategy.keeper
        wanted = {server_round, 0 if keeper.best is None else keeper.best.server_round}
        state = strategy.state() | save_tested({key: tested[key] for key in wanted & tested.keys()}).under("tested")
        folder.save_checkpoint(checkpoints, server_round, state, first_run)

    if found is None:
        begun = time.perf_counter()
        tally = strategy.fit_head(grid, rounds.round_timeout_seconds)
        folder.set_sites(enrolment.files)
        tested[0] = evaluator.frozen(strategy.head)
        folder.set_linear_probe(tested[0], tally, time.perf_counter() - begun)
        print(f"{head_name(folder.results)} of {len(tally.payload_bytes)} clients: accuracy {tested[0].accuracy:.4f}")
        validated = strategy.validate_head(grid, rounds.round_timeout_seconds)
        if validated is not None:
            folder.set_head_validation(*validated)
        if every:
            save()
    else:
        strategy.load_state(found.saved)
        tested |= load_tested(found.saved.part("tested"))
    print(header(evaluation.personal_test))

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if not config.evaluates(server_round):
            return None
        forms = strategy.evaluate(evaluator, server_round)
        tested[server_round] = forms[next(iter(config.method.forms))]
        return MetricRecord({name: scored.accuracy for name, scored in forms.items()})

    def record(report: RoundReport) -> None:
        folder.set_sites(enrolment.files)
        entry = folder.add_round(report, tested.get(report.server_round))
        print(round_line(entry, evaluation.personal_test), flush=True)
        if every and (report.server_round % every == 0 or report.server_round == rounds.num_server_rounds):
            save()
            _keep_model(folder.keep_model, strategy)

    strategy.start(
        grid,
        strategy.arrays(),
        rounds.num_server_rounds,
        rounds.round_timeout_seconds,
        evaluate_fn=evaluate,
        on_round=record,
    )
    folder.set_kept(strategy.keeper, strategy.server_round, tested)
    _keep_model(folder.save_model, strategy)


def _keep_model(write: Callable[[dict[str, torch.Tensor], Head], object], strategy: RoundStrategy) -> None:
    """Write the model that a run ends with, or would end with now."""
    kept = strategy.keeper.best
    if kept is None:
        write(strategy.tensors(), strategy.head)
    else:
        write(kept.tensors, kept.head)
