"""Which run a run goes on with, and whether it may."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from common.config.run import RunConfig
from common.config.section import kebab
from common.config.shared import CheckpointSection, EvaluationSection
from common.data.config import PatienceSection
from common.errors import CheckpointError
from common.models.accuracy import Scored
from common.saved import Saved
from deltamask_server.checkpoints import Checkpoint, Checkpoints
from deltamask_server.processes import is_gone
from deltamask_server.results_file import read_results

__all__ = ["checkpoints_of", "find_checkpoint", "load_tested", "run_folder_of", "save_tested"]

_MAY_DIFFER = {
    "num-server-rounds",
    "min-clients",
    "node-wait-seconds",
    "round-timeout-seconds",
    "round-deadline-seconds",
    "over-sample",
    "round-retries",
    "retry-wait-seconds",
    "output-dir",
    *(kebab(name) for kind in (CheckpointSection, EvaluationSection, PatienceSection) for name in kind.model_fields),
}


def checkpoints_of(folder: Path, config: RunConfig) -> Checkpoints:
    """The checkpoints of the run in this folder."""
    return Checkpoints(folder / "checkpoints", config[CheckpointSection].checkpoint_keep_every)


def run_folder_of(config: RunConfig) -> Path:
    """The folder that the key ``resume`` names, resolved.

    Raises
    ------
    CheckpointError
        If there is no run.
    """
    name = config[CheckpointSection].resume
    runs = Path(config.rounds.output_dir).expanduser()
    path = (runs / "latest" if name == "latest" else Path(name).expanduser()).resolve()
    if not (path / "results.json").is_file():
        raise CheckpointError(f"resume = {name!r}: there is no run in {path}; name its folder, as `{runs}/...`")
    return path


def find_checkpoint(path: Path, config: RunConfig) -> Checkpoint:
    """The newest checkpoint of the run in a folder, if it can go on with this config.

    Raises
    ------
    CheckpointError
        If there is none, the run is going on, its config was another one, or its results.json is no JSON.
    """
    try:
        results = read_results(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path / 'results.json'}: cannot be read, {error}; if it was edited by hand, undo that"
        ) from error
    if results.get("status") == "running" and not is_gone(results):
        process = results.get("process") or {}
        where = f"process {process['pid']} of {process['host']}" if process else "another process"
        raise CheckpointError(
            f"{path}: this run goes on in {where}; stop it first. If that machine is lost, write "
            '"status": "stopped" into its results.json'
        )
    found = checkpoints_of(path, config).newest()
    problems = _differences(found.config, config.as_dict())
    if problems:
        raise CheckpointError(
            f"{path}: this run had another config: {'; '.join(problems)}. {path / 'resume.toml'} has the one it had"
        )
    if found.server_round >= config.rounds.num_server_rounds:
        raise CheckpointError(
            f"{path}: this run has had its {found.server_round} rounds; for more, raise num-server-rounds"
        )
    return found


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    keys = sorted((before.keys() | now.keys()) - _MAY_DIFFER)
    return [
        f"{key} was {before.get(key)!r}, and is {now.get(key)!r}" for key in keys if before.get(key) != now.get(key)
    ]


def save_tested(tested: dict[int, Scored]) -> Saved:
    """Answers to test images by round, for a checkpoint."""
    arrays = {str(server_round): scored.confusion for server_round, scored in tested.items()}
    values = {str(server_round): [scored.loss, scored.accuracy] for server_round, scored in tested.items()}
    return Saved({**arrays}, values)


def load_tested(saved: Saved) -> dict[int, Scored]:
    """The inverse of `save_tested`."""
    return {
        int(name): Scored(float(loss), float(accuracy), saved.arrays[name].astype(np.int64))
        for name, (loss, accuracy) in saved.values.items()
    }
