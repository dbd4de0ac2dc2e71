"""Run the tutorial as a reader would, block by block, and say what it printed: ``python docs/run_tutorial.py``.

The words behind ``bash`` in the page's blocks say where a block runs:

    install              once at the start, if asked for (``--install``); otherwise this environment is taken
    MACHINE              in that machine's terminal: a shell that lives as long as the tutorial
    MACHINE background   in a terminal of its own, for what keeps running; ``wait=PORT``: until something listens

All machines are this one. Whatever was started is ended by its id, also on failure.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a fresh machine has nothing installed yet

from deploy.processes import end_tree, free_port  # noqa: E402

__all__ = ["Block", "Tutorial", "blocks", "main"]

PAGE = ROOT / "docs" / "tutorial.md"
_BLOCK = re.compile(r"^```bash ([^\n]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PORTS = re.compile(r"(?<=127\.0\.0\.1:)\d{5}|(?<=--port )\d{5}|(?<=wait=)\d{5}")
_POLL_SECONDS = 0.2


class Block(NamedTuple):
    """One block of commands."""

    machine: str
    """Or `install`."""
    background: bool
    port: int | None
    """To wait for, if it runs in the background."""
    commands: str


def blocks(page: str) -> list[Block]:
    """All blocks of a page that say where they run, in order."""
    found = []
    for words, commands in _BLOCK.findall(page):
        machine, *rest = words.split()
        ports = [int(word.removeprefix("wait=")) for word in rest if word.startswith("wait=")]
        found.append(Block(machine, "background" in rest, ports[0] if ports else None, commands))
    return found


class Shell:
    """A terminal: commands go in, one block after the other, and variables stay."""

    def __init__(self, log: Path, env: dict[str, str]) -> None:
        self.log, self.count = log, 0
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                ["bash", "-e", "-o", "pipefail"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=env,
                start_new_session=True,
            )

    def send(self, commands: str) -> Path:
        """Give it a block; the file appears once all of it has succeeded."""
        self.count += 1
        done = self.log.with_suffix(f".done-{self.count}")
        assert self.process.stdin is not None
        # Its commands do not read the terminal: what comes next is for the shell.
        self.process.stdin.write(f"{{\n{commands}}} </dev/null\ntouch '{done}'\n".encode())
        self.process.stdin.flush()
        return done


class Tutorial:
    """The machines of a tutorial, each with a terminal, and more for what keeps running.

    Parameters
    ----------
    folder
        The home folder of all of them.
    free_ports
        Take free ports instead of those of the page: something else may run here.
    """

    def __init__(self, folder: Path, free_ports: bool = False) -> None:
        self.folder = folder
        self.free_ports = free_ports
        self.ports: dict[str, str] = {}
        self.shells: dict[str, Shell] = {}
        self.env = os.environ | {
            "HOME": str(folder),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
        }
        for name in ("FLWR_HOME", "XDG_CACHE_HOME"):
            self.env.pop(name, None)

    def __enter__(self) -> Tutorial:
        return self

    def __exit__(self, *_: object) -> None:
        for shell in reversed(self.shells.values()):
            end_tree(shell.process)

    def run(self, block: Block, seconds: float) -> str:
        """Run a block to its end, or start it if it runs in the background: what it printed.

        Raises
        ------
        RuntimeError
            If a command fails, does not end in time, or nothing listens on the port to wait for.
        """
        name = f"{block.machine}-{len(self.shells)}" if block.background else block.machine
        commands = _PORTS.sub(self._port, block.commands)
        if name not in self.shells:
            self.shells[name] = Shell(self.folder / f"{name}.log", self.env)
        shell = self.shells[name]
        before = shell.log.stat().st_size
        done = shell.send(commands)
        end = time.monotonic() + seconds
        while not self._is_ready(block, done):
            if shell.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"in the terminal of {name}:\n{commands}\n{self.logs()}")
            time.sleep(_POLL_SECONDS)
        return shell.log.read_bytes()[before:].decode(errors="replace")

    def _is_ready(self, block: Block, done: Path) -> bool:
        if not block.background:
            return done.exists()
        if block.port is None:
            return True
        port = int(_PORTS.sub(self._port, f"wait={block.port}").removeprefix("wait="))
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    def _port(self, match: re.Match[str]) -> str:
        if not self.free_ports:
            return match[0]
        return self.ports.setdefault(match[0], str(free_port()))

    def logs(self) -> str:
        """The end of what each terminal shows."""
        return "\n".join(f"== {name}\n{shell.log.read_text()[-4000:]}" for name, shell in self.shells.items())

    def install(self, block: Block) -> None:
        """Run a block of the installation, and give every terminal to come the environment that it leaves."""
        file = self.folder / "environment"
        script = f"set -e\n{block.commands}\nenv -0 >'{file}'"
        subprocess.run(["bash", "-c", script], cwd=ROOT, env=self.env, check=True)
        self.env = dict(line.split("=", 1) for line in file.read_text().split("\0") if line)


def main() -> None:
    """Run every block and print the transcript."""
    parser = argparse.ArgumentParser(description="Run the tutorial, block by block, and print what it prints.")
    parser.add_argument("--install", action="store_true", help="install first, as the page says, into .venv")
    parser.add_argument("--home", type=Path, help="the home folder to work in (default: a temporary one)")
    parser.add_argument("--free-ports", action="store_true", help="take free ports instead of those of the page")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for a block (default: 1800)")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        home = args.home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deltamask-tutorial-")))
        tutorial = stack.enter_context(Tutorial(home.resolve(), args.free_ports))
        for block in blocks(PAGE.read_text(encoding="utf-8")):
            print(f"--- {block.machine}{' (background)' if block.background else ''}\n{block.commands}", flush=True)
            if block.machine != "install":
                print(tutorial.run(block, args.timeout), flush=True)
            elif args.install:
                tutorial.install(block)


if __name__ == "__main__":
    main()
