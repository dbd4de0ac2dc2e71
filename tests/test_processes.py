from __future__ import annotations

import subprocess
import time
from pathlib import Path

import psutil
import pytest

from deploy.processes import end_tree, kill_tree, start_logged

# Flower and Ray start processes in sessions of their own: no signal to the group of the first one reaches those.
FAMILY = "trap '' TERM; setsid sh -c 'sleep 300 & echo $!; wait' & echo $!; echo ready; wait"


def started(folder: Path, script: str) -> tuple[subprocess.Popen[bytes], list[int]]:
    """A shell, and the processes it says that it has started."""
    log = folder / "log"
    process = start_logged(["sh", "-c", script], log)
    end = time.monotonic() + 20
    while len(lines := log.read_text().split()) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    return process, [int(line) for line in lines if line.isdigit()]


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def all_gone(pids: list[int]) -> bool:
    """Within some seconds: a signal takes a moment."""
    end = time.monotonic() + 20
    while any(map(lives, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(lives, pids))


@pytest.mark.parametrize("end", [lambda process: end_tree(process, patience=0.1), kill_tree])
def test_a_process_ends_with_descendants_in_other_sessions(tmp_path: Path, end) -> None:
    process, descendants = started(tmp_path, FAMILY)
    assert len(descendants) == 2
    assert all(map(lives, descendants))
    end(process)
    assert process.returncode == -9
    assert all_gone(descendants)


def test_a_process_that_is_asked_may_end_by_itself(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start_logged(["sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"], log)
    while not log.read_text():
        time.sleep(0.02)
    end_tree(process)
    assert process.returncode == 7
    end_tree(process)  # it is gone, and that is what was wanted
    kill_tree(process)
