"""A run's state on the disk after each round, so that one that was stopped, however, can go on.

A checkpoint is one safetensors file: the arrays of a `common.saved.Saved`, and in its metadata the values as JSON, the
run config, versions of packages, and a digest over everything. It is written beside its place, flushed to the disk and
renamed, so a power cut leaves the one before. The last two stay: if the newest cannot be read, a run goes on from the
other one. Nothing is pickled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from common.digest import new_digest
from common.errors import CheckpointError
from common.files import replacing
from common.saved import Saved

__all__ = ["Checkpoint", "Checkpoints", "read_checkpoint"]

_FORMAT = "deltamask-checkpoint-v1"
_NAME = re.compile(r"round-(\d{6})\.safetensors")
_KEPT = 2


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a run was after a round."""

    path: Path
    server_round: int
    saved: Saved
    config: dict[str, Any]
    """The run config, every key of it."""
    run: int
    """Flower's number of the run as it was first started: clients keep what they hold by it."""


class Checkpoints:
    """The checkpoints of one run.

    Parameters
    ----------
    folder
        Where they are.
    keep_every
        Besides the last two, those of rounds that this divides stay; 0: none.
    """

    def __init__(self, folder: Path, keep_every: int = 0) -> None:
        self._folder, self._keep_every = folder, keep_every

    def write(self, server_round: int, saved: Saved, config: Mapping[str, Any], run: int) -> Path:
        """Write the state after a round, and remove what is no longer needed; parameters as in `Checkpoint`.

        Raises
        ------
        OSError
            If the disk does not take it; the older ones are then still there.
        """
        about = {"round": server_round, "run": run, "config": dict(config)}
        texts = {"format": _FORMAT, "about": json.dumps(about), "values": json.dumps(saved.values)}
        arrays = {name: np.ascontiguousarray(array) for name, array in saved.arrays.items()}
        path = self._folder / f"round-{server_round:06}.safetensors"
        try:
            with replacing(path, fsync=True) as temporary:
                save_file(arrays, temporary, texts | {"digest": _digest(arrays, texts)})
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(f"{path}: {error}") from error
        self._remove_old(server_round)
        return path

    def newest(self, say: Callable[[str], None] = print) -> Checkpoint:
        """The newest checkpoint that can be read.

        Parameters
        ----------
        say
            Hears of each that cannot.

        Raises
        ------
        CheckpointError
            If there is none.
        """
        paths = sorted((path for path in self._folder.glob("round-*") if _NAME.fullmatch(path.name)), reverse=True)
        for path in paths:
            try:
                return read_checkpoint(path)
            except CheckpointError as error:
                say(f"{error}; going back to the one before")
        raise CheckpointError(
            f"{self._folder}: "
            + ("none of its checkpoints can be read" if paths else "there is no checkpoint")
            + "; the run cannot be resumed: start it anew"
        )

    def _remove_old(self, server_round: int) -> None:
        """All but the last two up to this round, those to be kept, and any of later rounds: they are of what the run
        would have been, had it not been taken up earlier.
        """
        found = {int(match[1]): path for path in self._folder.iterdir() if (match := _NAME.fullmatch(path.name))}
        last = sorted(number for number in found if number <= server_round)[-_KEPT:]
        for number, path in found.items():
            stays = self._keep_every and 0 < number <= server_round and number % self._keep_every == 0
            if number not in last and not stays:
                with suppress(OSError):  # it is in nobody's way
                    path.unlink()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one, and check that it is what was written.

    Raises
    ------
    CheckpointError
        If it is missing, damaged, or another kind of file.
    """
    try:
        with safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            texts = file.metadata() or {}
    except (OSError, SafetensorError, TypeError, AttributeError) as error:  # the last two: of types that numpy lacks
        raise CheckpointError(f"{path}: it cannot be read: {error}") from None
    if texts.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: format {texts.get('format')!r}; this release reads {_FORMAT!r}")
    if texts.pop("digest", None) != _digest(arrays, texts):
        raise CheckpointError(f"{path}: it is damaged: its contents do not have the digest that it names")
    try:
        about, values = json.loads(texts["about"]), json.loads(texts["values"])
        server_round, config, run = (about[name] for name in ("round", "config", "run"))
    except (KeyError, TypeError, ValueError, RecursionError):
        server_round = config = run = values = None
    if not (type(server_round) is type(run) is int and isinstance(config, dict) and isinstance(values, dict)):
        raise CheckpointError(f"{path}: it does not say what this release reads: round, run, config and values")
    return Checkpoint(path, server_round, Saved(arrays, values), config, run)


def _digest(arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, str]) -> str:
    state = new_digest()
    for key, text in sorted(texts.items()):
        state.update(f"{key}={len(text)}:{text}".encode())
    for name, array in sorted(arrays.items()):
        state.update(f"{name}{array.shape}{array.dtype}".encode())
        state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return state.hexdigest()
