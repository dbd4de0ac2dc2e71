"""Over gRPC with TLS: only SuperNodes with a registered key and the right CA take part, a revoked one never again."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.flower import ROOT, Flower, environment

KEYS_SH = ROOT / "deploy" / "tls" / "keys.sh"
RUN = "train-limit=120 test-limit=60 local-epochs=1 num-server-rounds=1 node-wait-seconds=240"
EXIT_SECONDS = 120
"""Far more than a refused SuperNode takes: none may sit there and retry for ever."""


def keys_sh(folder: Path, *arguments: str | Path | None) -> str:
    """Run keys.sh as the one who administers a deployment would: what it said."""
    command = ["bash", str(KEYS_SH), *map(str, arguments)]
    done = subprocess.run(command, env=environment(folder), cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    """A SuperLink with TLS and node authentication, and the keys of some SuperNodes, none of them registered."""
    folder = tmp_path_factory.mktemp("tls")
    keys = folder / "keys"
    keys_sh(folder, "ca", keys)
    keys_sh(folder, "ca", folder / "other")
    keys_sh(folder, "server", keys, "superlink.example")
    for name in ("node-0", "node-1", "leaver", "stranger"):
        keys_sh(folder, "node", keys, name)
    with Flower(folder, keys=keys) as flower:
        yield flower


def register(flower: Flower, name: str) -> None:
    assert keys_sh(flower.folder, "register", flower.keys, name, "test").startswith(f"Registered {name} at 'test'")


def revoke(flower: Flower, name: str) -> str:
    return keys_sh(flower.folder, "revoke", flower.keys, name, "test")


def statuses(flower: Flower) -> dict[str, str]:
    """What the SuperLink says of the nodes that it knows, by the name of their key."""
    command = ["flwr", "supernode", "list", "test", "--verbose", "--format", "json"]
    done = subprocess.run(command, env=flower.env, capture_output=True, text=True, timeout=120, check=True)
    names = {path.read_text().strip(): path.name.removesuffix(".test.id") for path in flower.keys.glob("*.test.id")}
    return {names[node["node-id"]]: node["status"] for node in json.loads(done.stdout)["nodes"]}


def wait_until_connected(flower: Flower, name: str) -> None:
    end = time.monotonic() + EXIT_SECONDS
    while "SuperNode ID" not in (flower.folder / f"{name}.log").read_text():
        assert time.monotonic() < end, flower.logs()
        time.sleep(0.2)


def refusal(flower: Flower, name: str, security: list[str]) -> str:
    """Start a SuperNode that is to be refused: its log, once it has ended by itself with an error."""
    node = flower.supernode(1, of=2, security=security, name=name)
    status = node.wait(EXIT_SECONDS)
    log = (flower.folder / f"{name}.log").read_text()
    assert status == 1, log
    assert "Failed to initialize the connection to the SuperLink" in log
    assert "SuperNode ID" not in log
    return log


def test_an_unregistered_key_is_refused(flower: Flower) -> None:
    log = refusal(flower, "supernode-stranger", flower.supernode_security("stranger"))
    assert "Failed to activate SuperNode" in log


def test_a_supernode_without_a_key_is_refused(flower: Flower) -> None:
    log = refusal(flower, "supernode-keyless", flower.supernode_security(None))
    assert "SuperNode authentication is enabled" in log


def test_a_supernode_with_another_ca_refuses_the_superlink(flower: Flower) -> None:
    other = flower.folder / "other" / "ca.crt"
    log = refusal(flower, "supernode-other-ca", flower.supernode_security("node-1", ca=other))
    assert "CERTIFICATE_VERIFY_FAILED" in log


def test_a_revoked_supernode_stops_and_cannot_come_back(flower: Flower) -> None:
    register(flower, "leaver")
    security = flower.supernode_security("leaver")
    node = flower.supernode(1, of=2, security=security, name="supernode-leaver")
    wait_until_connected(flower, "supernode-leaver")
    assert node.poll() is None

    said = revoke(flower, "leaver")
    assert said.startswith("Revoked leaver (SuperNode ")
    assert "it was online" in said
    assert node.wait(EXIT_SECONDS) == 0, flower.logs()  # Flower ends it, and calls that graceful
    assert statuses(flower)["leaver"] == "unregistered"
    assert "Failed to activate SuperNode" in refusal(flower, "supernode-again", security)
    assert "was revoked at 'test' before; nothing to do" in revoke(flower, "leaver")
    with pytest.raises(AssertionError, match="Public key already in use"):
        register(flower, "leaver")


@pytest.mark.slow
def test_registered_nodes_complete_a_run_and_a_revoked_one_is_not_in_the_next(flower: Flower) -> None:
    nodes = []
    for partition in range(2):
        register(flower, f"node-{partition}")
        nodes.append(flower.supernode(partition, of=2))
    results, log = flower.run(f"{RUN} min-clients=2", timeout=600)
    assert results["status"] == "completed", log + flower.logs()
    assert results["rounds"][0]["clients"] == {"asked": 2, "ok": 2, "failed": {}, "failed_clients": {}}

    revoke(flower, "node-1")
    assert nodes[1].wait(EXIT_SECONDS) == 0, flower.logs()
    refusal(flower, "supernode-1", flower.supernode_security("node-1"))
    known = statuses(flower)  # whoever was refused in the tests above left no trace
    known.pop("leaver", None)
    assert known == {"node-0": "online", "node-1": "unregistered"}

    results, log = flower.run(f"{RUN} min-clients=1", timeout=600)
    assert results["status"] == "completed", log + flower.logs()
    assert results["rounds"][0]["clients"] == {"asked": 1, "ok": 1, "failed": {}, "failed_clients": {}}
