"""A run in this process that kills itself, as a power cut would, after so many writes of files: for tests of what is
left.

    python -m tests.killed WRITES CONFIG NODES FOLDER RUN_ID
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.in_process import run_in_process


def counted(function: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        done = function(*args, **kwargs)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    return call


def main() -> None:
    writes, config, nodes, folder, run_id = sys.argv[1:]
    left = [int(writes)]
    os.replace = counted(os.replace, left)  # what is written whole
    os.fsync = counted(os.fsync, left)  # lines that are appended
    values = tomllib.loads(Path(config).read_text())
    run_in_process(Path(folder), values, json.loads(Path(nodes).read_text()), run_id=int(run_id))


if __name__ == "__main__":
    main()
