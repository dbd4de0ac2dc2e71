"""The compose demo's one-shot service `run`: submits the app, shows its rounds, exits with 0 only if the run completed.

python submit.py CONNECTION [RUN_CONFIG]
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from deltamask_server.tools.watch import ended_by_flower, follow, wait_for_run

APP = Path(__file__).resolve().parents[1]
RUNS = Path("/runs")
START_SECONDS = 120


def submit(connection: str, run_config: str) -> str:
    """Send the app to the SuperLink, which may not listen yet; the run's number."""
    command = ["flwr", "run", str(APP), connection, "--format", "json"]
    command += ["--run-config", run_config] if run_config else []
    end = time.monotonic() + START_SECONDS
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        answer = json.loads(done.stdout) if done.stdout.lstrip().startswith("{") else {}
        if answer.get("success"):
            return str(answer["run-id"])
        reason = answer.get("error-message") or done.stdout + done.stderr
        if "onnect" not in reason or time.monotonic() > end:
            sys.exit(f"the run was not accepted: {reason}")
        time.sleep(2)


def main() -> None:
    """Submit a run, and follow it to its end."""
    connection, run_config = sys.argv[1], " ".join(sys.argv[2:])
    home = Path(os.environ["FLWR_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(APP / "docker" / "connections.toml", home / "config.toml")

    started = time.time()
    run_id = submit(connection, run_config)

    def has_ended() -> bool:
        return ended_by_flower(connection, run_id)

    folder = wait_for_run(RUNS / "latest", started, has_ended)
    if folder is None or not follow(folder, has_ended):
        log = subprocess.run(["flwr", "log", run_id, connection, "--show"], capture_output=True, text=True, check=False)
        sys.exit(f"the run did not complete; the last lines of Flower's log:\n{log.stdout[-4000:]}{log.stderr}")


if __name__ == "__main__":
    main()
