"""Processes on this machine: a free port for one, and the end of one with everything it started, by their ids.

Flower starts its simulation in a session of its own, and Ray its workers in others: ending the SuperLink, or its
process group, leaves them training.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from pathlib import Path

import psutil

__all__ = ["end_tree", "free_port", "kill_tree", "start_logged"]


def free_port() -> int:
    """A port of the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_logged(
    command: list[str], log: Path, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, with everything that it prints in a file."""
    with log.open("wb") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=cwd, start_new_session=True
        )


def end_tree(process: subprocess.Popen[bytes], patience: float = 10.0) -> None:
    """Ask a process to end, wait for ``patience`` seconds, then end it and every descendant it had when asked."""
    tree = _tree(process.pid)  # now: descendants of a process that is gone cannot be found
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    _kill(tree)
    process.wait()


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process and its descendants at once, as a power failure does."""
    _kill(_tree(process.pid))
    process.wait()


def _tree(pid: int) -> list[psutil.Process]:
    """A process and its descendants; nothing if it is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.kill()  # not whoever has got its number meanwhile: psutil compares the time of its start
