"""Run the app as a simulation with a SuperLink of its own, and follow it: what `make demo` does.

    python deploy/simulate.py --supernodes 10 --run-config "num-server-rounds=3 codec='fuse16'"
    python deploy/simulate.py --supernodes 10 --run-config conf/vit-tiny-cifar10.toml

``flwr run . local`` does the same through a SuperLink that Flower leaves running in the background, in the folder and
environment that it was first started from. Here the SuperLink lives as long as the run, in this environment, on ports
that are free, and relative paths count from the current folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deltamask_server.results_file import read_results
from deltamask_server.tools.watch import ended_by_flower, follow, wait_for_run
from deploy.processes import end_tree, free_port, start_logged

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 180
NAME = "simulation"
HEAD_KEPT = 3
LOG_TAIL = 4000
"""Characters."""


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the SuperLink listens; say why if it does not."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise SystemExit(f"the SuperLink did not start:\n{log.read_text()[-2000:]}")


def main() -> None:
    """Start a SuperLink, run the app, follow it, end the SuperLink."""
    parser = argparse.ArgumentParser(description="Run the app as a simulation with a SuperLink of its own.")
    parser.add_argument("--supernodes", type=int, default=10, help="simulated clients (default: 10)")
    parser.add_argument("--run-config", default="", help='a TOML file, or "key=value key=value"')
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the SuperLink is ended then too

    with tempfile.TemporaryDirectory(prefix="deltamask-") as folder:
        home, port = Path(folder), free_port()
        (home / "config.toml").write_text(f'[superlink.{NAME}]\naddress = "127.0.0.1:{port}"\ninsecure = true\n')
        os.environ["FLWR_HOME"] = str(home)
        os.environ["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] = "1"
        log = home / "superlink.log"
        command = ["flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--control-api-address", f"127.0.0.1:{free_port()}"]
        superlink = start_logged(command, log)
        try:
            wait_for_port(port, superlink, log)
            sys.exit(run(args.supernodes, args.run_config))
        finally:
            end_tree(superlink)


def run(supernodes: int, run_config: str) -> int:
    """Submit the run and show it until it ends; 0 if it completed, `HEAD_KEPT` if training did not improve on the head
    alone.
    """
    federation = f"num-supernodes={supernodes} client-resources-num-cpus=1"
    command = ["flwr", "run", str(ROOT), NAME, "--federation-config", federation, "--format", "json"]
    started = time.time()
    submitted = subprocess.run(
        command + (["--run-config", run_config] if run_config else []), capture_output=True, text=True, check=False
    )
    answer = json.loads(submitted.stdout) if submitted.stdout.lstrip().startswith("{") else {}
    if not answer.get("success"):
        print(answer.get("error-message") or submitted.stdout + submitted.stderr, file=sys.stderr)
        print("Keys of --run-config are those of [tool.flwr.app.config] in pyproject.toml.", file=sys.stderr)
        return 1
    run_id = str(answer["run-id"])

    def has_ended() -> bool:
        return ended_by_flower(NAME, run_id)

    folder = wait_for_run(Path("runs/latest"), started, has_ended)
    if folder is None:
        log = flower_log(run_id)
        # Whoever raised on purpose printed one clear line first; the rest is Flower's traceback.
        reason = [line for line in log.splitlines() if line.startswith("ERROR  ")]
        print("\n".join(reason) or log, file=sys.stderr)
        return 1
    if not follow(folder, has_ended):
        # The SuperLink and its log end with this process.
        print(f"The last lines of Flower's log:\n{flower_log(run_id)[-LOG_TAIL:]}", file=sys.stderr)
        return 1
    end = time.monotonic() + START_SECONDS
    while not has_ended() and time.monotonic() < end:  # it has written its results, and ends by itself
        time.sleep(0.5)
    return HEAD_KEPT if read_results(folder).get("kept", {}).get("round") == 0 else 0


def flower_log(run_id: str) -> str:
    """What the ServerApp and the simulation printed."""
    command = ["flwr", "log", run_id, NAME, "--show"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    main()
