"""What compression buys on a thin link: one server and four devices, each behind 1 Mbit/s up, 8 down, 100 ms, 1 % loss.

    sudo .venv/bin/python -m benchmarks.thin_link run      # ten minutes -> benchmarks/results/thin-link.json
    .venv/bin/python -m benchmarks.thin_link table

Each machine is a network namespace with an address of its own, the links are those of `benchmarks.links`: a SuperLink
and four SuperNodes as in a deployment, TLS and registered keys over gRPC. Time is what the server measures from sending
a round's model to the last reply. Bytes of a link are all that crossed it in the run, IP headers included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.links import Link, Way, namespaces, run_in, why_not
from benchmarks.results import FOLDER
from deploy.processes import end_tree, start_logged

ROOT = Path(__file__).resolve().parents[1]
RESULTS = FOLDER / "thin-link.json"
BIN = Path(sys.executable).parent
DEVICES, ROUNDS = 4, 4
UP, DOWN, DELAY, LOSS = 1e6, 8e6, 0.05, 0.01
WAYS: dict[str, dict[str, Any]] = {
    "relative, relayed": {"codec": "relative", "downlink": "relay"},
    "fuse8": {"codec": "fuse8"},
    "float32": {"method": "fedavg", "weight-learning-rate": 1e-4},
}
SERVER = "dm-server"


def _device(number: int) -> str:
    return f"dm-device-{number}"


@contextlib.contextmanager
def _links(thin: bool) -> Iterator[list[Link]]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(namespaces(SERVER, *(_device(number) for number in range(DEVICES))))
        links = []
        for number in range(DEVICES):
            limits = {"delay": DELAY, "loss": LOSS} if thin else {}
            up = Way(UP if thin else 0, **limits, seed=2 * number)
            down = Way(DOWN if thin else 0, **limits, seed=2 * number + 1)
            near, far = (SERVER, f"10.79.{number}.1/30"), (_device(number), f"10.79.{number}.2/30")
            links.append(stack.enter_context(Link(f"dm{number}", near, far, up, down)))
        yield links


class _Deployment:
    """A SuperLink, four SuperNodes, and their processes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.keys = folder, folder / "keys"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._env = os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(folder / "flwr"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
        }

    def __enter__(self) -> _Deployment:
        (self.folder / "flwr").mkdir()
        self._key("ca")
        self._key("server", *(f"10.79.{number}.1" for number in range(DEVICES)))
        (self.folder / "flwr" / "config.toml").write_text(
            f'[superlink.field]\naddress = "127.0.0.1:18000"\nroot-certificates = "{self.keys}/ca.crt"\n'
        )
        tls = ["--ssl-ca-certfile", "ca.crt", "--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key"]
        address = ["--host", "127.0.0.1", "--port", "18000", "--fleet-api-address", "0.0.0.0:9092"]
        self._start(SERVER, "superlink", ["flower-superlink", *tls, "--enable-supernode-auth", *address])
        self._register()
        for number in range(DEVICES):
            command = ["flower-supernode", "--grpc-rere", "--superlink", f"10.79.{number}.1:9092"]
            command += ["--root-certificates", "ca.crt", "--auth-supernode-private-key", f"node-{number}"]
            command += ["--node-config", f"partition-id={number} num-partitions={DEVICES}"]
            self._start(_device(number), f"device-{number}", command, FLWR_HOME=str(self.folder / f"flwr-{number}"))
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            end_tree(process)

    def run(self, config: dict[str, Any]) -> dict[str, Any]:
        """One run to its end: its results.json."""
        values = {"num-server-rounds": ROUNDS, "min-clients": DEVICES, "output-dir": str(self.folder / "runs")} | config
        text = " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
        done = self._flwr("run", str(ROOT), "field", "--stream", "--run-config", text)
        results: dict[str, Any] = json.loads((self.folder / "runs" / "latest" / "results.json").read_text())
        if results["status"] != "completed":
            raise SystemExit(f"the run is {results['status']}:\n{done.stdout}{self._logs()}")
        return results

    def _key(self, *arguments: str) -> None:
        command, *others = arguments
        subprocess.run([str(ROOT / "deploy/tls/keys.sh"), command, str(self.keys), *others], check=True, env=self._env)

    def _register(self) -> None:
        for number in range(DEVICES):
            self._key("node", f"node-{number}")
        script = str(ROOT / "deploy/tls/keys.sh")
        end = time.monotonic() + 120
        for number in range(DEVICES):
            command = run_in(SERVER, [script, "register", str(self.keys), f"node-{number}", "field"])
            while subprocess.run(command, env=self._env, capture_output=True, check=False).returncode:
                if time.monotonic() > end:
                    raise SystemExit(f"the SuperLink takes no key:\n{self._logs()}")
                time.sleep(1)

    def _start(self, namespace: str, name: str, command: list[str], **env: str) -> None:
        log = self.folder / f"{name}.log"
        self._processes.append(start_logged(run_in(namespace, command), log, self._env | env, self.keys))

    def _flwr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = run_in(SERVER, ["flwr", *arguments])
        return subprocess.run(command, env=self._env, cwd=self.folder, capture_output=True, text=True, check=False)

    def _logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-2000:]}" for path in sorted(self.folder.glob("*.log")))


def measure(config: dict[str, Any], thin: bool) -> dict[str, Any]:
    """One run in a deployment of its own."""
    with tempfile.TemporaryDirectory(prefix="deltamask-link-") as folder, _links(thin) as links:
        with _Deployment(Path(folder)) as deployment:
            results = deployment.run(config)
        rounds = results["rounds"]
        later = rounds[1:]  # the first round compiles, reads data, and brings the app
        return {
            "masked parameters": results["model"]["masked_parameters"],
            "accuracy": rounds[-1]["accuracy"]["mean"],
            "seconds a round": [round(entry["seconds"]["train"], 1) for entry in rounds],
            "payload bytes a client and round": {
                way: round(sum(sum(e[way]["payload_bytes"].values()) for e in later) / len(later) / DEVICES)
                for way in ("uplink", "downlink")
            },
            "link bytes a client in the whole run": {
                "up": round(sum(link.up.passed for link in links) / DEVICES),
                "down": round(sum(link.down.passed for link in links) / DEVICES),
            },
            "packets lost": sum(link.up.lost + link.down.lost for link in links),
            "clients": [entry["clients"]["ok"] for entry in rounds],
        }


def table() -> str:
    """What is kept, as Markdown."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = [
        "| link | update | seconds a round | payload up, bytes | payload down, bytes | link up, MB | link down, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for link, ways in kept["links"].items():
        for name, found in ways.items():
            times, payload = found["seconds a round"][1:], found["payload bytes a client and round"]
            total = [f"{size / 1e6:.2f}" for size in found["link bytes a client in the whole run"].values()]
            lines.append(
                f"| {link} | {name} | {sum(times) / len(times):.1f} ({min(times):.1f} to {max(times):.1f}) "
                f"| {payload['uplink']:,} | {payload['downlink']:,} | {total[0]} | {total[1]} |"
            )
    return "\n".join(lines)


def command_line(description: str, run: Callable[[], None], table: Callable[[], str]) -> None:
    """The commands of what is measured on links: run, where this machine can make some, and table."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("command", choices=["run", "table"])
    if parser.parse_args().command == "table":
        print(table())
        return
    if reason := why_not():
        raise SystemExit(f"cannot make links: {reason}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that processes and links are ended then too
    run()


def run() -> None:
    """Measure every way on both kinds of links, and keep what was found."""
    found: dict[str, Any] = {}
    for link, thin in (("thin", True), ("no limit", False)):
        for name, config in WAYS.items():
            found.setdefault(link, {})[name] = measure(config, thin)
            print(link, name, json.dumps(found[link][name]), flush=True)
    limits = {"up": UP, "down": DOWN, "one way": DELAY, "loss": LOSS, "devices": DEVICES, "rounds": ROUNDS}
    RESULTS.write_text(json.dumps({"thin": limits, "links": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command_line("One server, four devices behind thin links.", run, table)
