"""Findings as files that can be repeated, and the input that a crash would leave unreported.

A file is a line of JSON, and the input's bytes; where there are none, the input is made again from the line.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.fuzz.case import Input, Target
from tests.fuzz.judge import Verdict

__all__ = ["Findings", "read_finding"]

_ALIKE = 10
"""Files of one target with the same kind of error: one bug may be found a million times."""
_LINE_BYTES = 400


class Findings:
    """The files of a run.

    Parameters
    ----------
    folder
        Where they go; it is made when the first input is about to be read.
    seed
        The run's.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._seed = folder, seed
        self._alike: Counter[tuple[str, str]] = Counter()
        self._running: int | None = None

    def begin(self, target: str, number: int) -> None:
        """Note which input is read now: should it end the process, this tells."""
        if self._running is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._running = os.open(self._path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        line = json.dumps({"target": target, "seed": self._seed, "number": number, "what": "it ended the process"})
        os.pwrite(self._running, line.ljust(_LINE_BYTES - 1).encode() + b"\n", 0)

    def end(self) -> None:
        """Nothing is read any more."""
        if self._running is not None:
            os.close(self._running)
            self._path.unlink()
            self._running = None

    def add(self, target: Target, number: int, given: Input, verdict: Verdict) -> Path | None:
        """Write one; None where there are files enough of its kind."""
        kind = target.name, verdict.what.split(":")[0]
        self._alike[kind] += 1
        if self._alike[kind] > _ALIKE:
            return None
        path = self._folder / f"{target.name}-{self._seed}-{number}.finding"
        about = {
            "repeat": f"python -m tests.fuzz --repeat {path}",
            "target": target.name,
            "case": target.cases[given.case].name,
            "seed": self._seed,
            "number": number,
            "what": verdict.what,
            "details": verdict.details,
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(json.dumps(about).encode() + b"\n" + given.data)
        return path

    @property
    def _path(self) -> Path:
        return self._folder / f"running-{os.getpid()}"


def read_finding(path: Path, targets: Mapping[str, Any]) -> tuple[Target, Input]:
    """The target and input of a file, from the functions that make targets."""
    line, _, data = path.read_bytes().partition(b"\n")
    about = json.loads(line)
    target: Target = targets[about["target"]]()
    if not data:
        return target, target.input(about["seed"], about["number"])
    names = [case.name for case in target.cases]
    return target, Input(names.index(about["case"]), data)
