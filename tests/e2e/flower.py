"""Real Flower processes for end-to-end tests: a SuperLink and SuperNodes over gRPC on loopback, and simulations.

Every process gets a session of its own and is ended by its id, with all its children, also when a test fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import flwr

from deploy.processes import end_tree, free_port, start_logged

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
HTTP = tuple(int(part) for part in flwr.__version__.split(".")[:2]) >= (1, 40)
"""Flower from 1.40 on: one port and HTTP for everything, no gRPC (`make test-newest-flower`)."""


def environment(folder: Path) -> dict[str, str]:
    """Environment variables that keep a test's Flower to itself, and off the network."""
    return {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(folder / "flwr"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "XDG_STATE_HOME": str(folder / "state"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def simulate(folder: Path, config: str, supernodes: int, timeout: float = 300) -> tuple[int, str]:
    """Simulate in a folder, as `make demo` does: the exit status, and the output. It ends its own processes."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "deploy" / "simulate.py"), "--supernodes", str(supernodes)]
    done = subprocess.run(
        [*command, "--run-config", config],
        env=environment(folder),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return done.returncode, done.stdout + done.stderr


class Flower:
    """One SuperLink for one or several runs, in a folder of its own: for SuperNodes, or for a simulation of some.

    With ``keys``, a folder that ``deploy/tls/keys.sh`` filled, it speaks TLS and takes registered SuperNodes only.
    """

    def __init__(self, folder: Path, simulated: int = 0, keys: Path | None = None) -> None:
        self.folder = folder
        self.simulated = simulated
        self.keys = keys
        self.runs = 0
        self.port = free_port()
        self.fleet_port = self.port if HTTP else free_port()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.env = environment(folder)

    def __enter__(self) -> Flower:
        home = self.folder / "flwr"
        home.mkdir(parents=True)
        security = "insecure = true" if self.keys is None else f'root-certificates = "{self.keys / "ca.crt"}"'
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "test"\n[superlink.test]\naddress = "127.0.0.1:{self.port}"\n{security}\n'
        )
        try:
            self.start_superlink()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start_superlink(self) -> None:
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        if self.simulated:
            address += ["--simulation", "--control-api-address", f"127.0.0.1:{free_port()}"]
        elif not HTTP:
            address += ["--fleet-api-address", f"127.0.0.1:{self.fleet_port}"]
        self.start("superlink", ["flower-superlink", *self.superlink_security(), *address])
        self.wait_for_port(self.port)
        if not self.simulated:
            self.wait_for_port(self.fleet_port)

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes):
            end_tree(process)

    def start(self, name: str, command: list[str], **env: str) -> subprocess.Popen[bytes]:
        process = start_logged(command, self.folder / f"{name}.log", self.env | env, self.folder)
        self.processes.append(process)
        return process

    def superlink_security(self) -> list[str]:
        if self.keys is None:
            return ["--insecure"]
        files = {"--ssl-ca-certfile": "ca.crt", "--ssl-certfile": "server.pem", "--ssl-keyfile": "server.key"}
        given = [part for flag, name in files.items() for part in (flag, str(self.keys / name))]
        return [*given, "--enable-supernode-auth"]

    def supernode(
        self, partition: int, of: int, more: str = "", *, security: list[str] | None = None, name: str | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a SuperNode; with keys, as ``node-<partition>``, unless ``security`` has other options."""
        config = f"partition-id={partition} num-partitions={of} {more}".strip()
        name = name or f"supernode-{partition}"
        return self.start(
            name,
            [
                *("flower-supernode", *([] if HTTP else ["--grpc-rere"])),
                *("--superlink", f"127.0.0.1:{self.fleet_port}"),
                *(self.supernode_security(f"node-{partition}") if security is None else security),
                *("--host", "127.0.0.1", "--port", str(free_port()), "--node-config", config),
            ],
            FLWR_HOME=str(self.folder / name.replace("super", "")),
        )

    def supernode_security(self, key: str | None, ca: Path | None = None) -> list[str]:
        """Options of a SuperNode with a key of the folder, or none, and with the SuperLink's CA, or another one."""
        if self.keys is None:
            return ["--insecure"]
        authority = ["--root-certificates", str(ca or self.keys / "ca.crt")]
        return authority + ([] if key is None else ["--auth-supernode-private-key", str(self.keys / key)])

    def run(self, config: str, timeout: float = 300) -> tuple[dict[str, Any], str]:
        """Run the app to its end: its results.json, and the output that the user would have seen."""
        self.runs += 1
        output = self.folder / ("runs" if self.runs == 1 else f"runs-{self.runs}")  # of its own: an old `latest` lies
        command = ["flwr", "run", str(ROOT), "test", "--stream"]
        command += ["--run-config", f"{config} output-dir='{output}'"]
        if self.simulated:
            federation = f"num-supernodes={self.simulated} client-resources-num-cpus=1"
            command += ["--federation-config", federation]
        done = subprocess.run(command, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=timeout)
        log = done.stdout + done.stderr
        latest = output / "latest" / "results.json"
        assert latest.is_file(), f"the run left nothing:\n{log}\n{self.logs()}"
        return json.loads(latest.read_text()), log

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))

    def wait_for_port(self, port: int, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.2)
        raise TimeoutError(f"nothing listens on port {port}\n{self.logs()}")
