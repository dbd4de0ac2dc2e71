"""Images and compose files: nothing secret goes in, every service is locked down, the demo computes what the simulation
does.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="PyYAML is needed to read compose files; Flower's simulation brings it")

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
OVERLAYS = ("insecure.yml", "gpu.yml", "state.yml")
NODES = ("supernode-0", "supernode-1", "supernode-2")


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((DOCKER / name).read_text())


def merged(*names: str) -> dict[str, dict[str, Any]]:
    """The services as compose sees them: mappings and volumes are merged, all else is replaced."""
    services: dict[str, dict[str, Any]] = {}
    for name in names:
        for service, keys in read(name)["services"].items():
            known = services.setdefault(service, {})
            for key, value in keys.items():
                if key in ("environment", "depends_on"):
                    known[key] = known.get(key, {}) | value
                elif key == "volumes":
                    known[key] = known.get(key, []) + value
                else:
                    known[key] = value
    return services


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Target -> source; the sources of bind mounts are written as variables with a default that holds a colon."""
    plain = [re.sub(r"\$\{[^}]*\}", "variable", mount) for mount in service.get("volumes", [])]
    return {mount.split(":")[1]: mount.split(":")[0] for mount in plain}


@pytest.mark.parametrize("overlays", [(), *((name,) for name in OVERLAYS)])
def test_every_service_is_hardened(overlays: tuple[str, ...]) -> None:
    services = merged("compose.yml", *overlays)
    assert {"keys", "superlink", "register", "run", *NODES} <= set(services)
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert "privileged" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"] == "${DELTAMASK_UID:-1000}", name
        assert service["mem_limit"], name
        assert service["pids_limit"] <= 512, name
        assert "ports" not in service, f"{name} is open to the machine's network"


@pytest.mark.parametrize("overlays", [(), ("gpu.yml",), ("state.yml",)])
def test_nothing_is_insecure_unless_asked_for(overlays: tuple[str, ...]) -> None:
    services = merged("compose.yml", *overlays)
    for name, service in services.items():
        assert "--insecure" not in service.get("command", []), name
    superlink = services["superlink"]["command"]
    assert "--enable-supernode-auth" in superlink
    assert any(argument.startswith("--ssl-certfile=") for argument in superlink)
    for node in NODES:
        assert "--root-certificates=/keys/ca.crt" in services[node]["command"]
        assert f"--auth-supernode-private-key=/keys/{node}" in services[node]["command"]
        assert "--grpc-rere" in services[node]["command"]


def test_the_insecure_overlay_is_wholly_so() -> None:
    services = merged("compose.yml", "insecure.yml")
    for name in ("superlink", *NODES):
        assert "--insecure" in services[name]["command"]
        assert not any("key" in argument for argument in services[name]["command"])


def test_each_node_has_its_own_keys_data_state_and_partition() -> None:
    services = merged("compose.yml")
    for index, node in enumerate(NODES):
        assert mounts(services[node]) == {"/keys": f"keys-{node}", "/state": f"state-{node}", "/data": f"data-{node}"}
        config = [argument for argument in services[node]["command"] if argument.startswith("--node-config=")]
        assert config[0].startswith(f"--node-config=partition-id={index} num-partitions={len(NODES)} ")
    # Only the service that makes keys sees those of others, or the authority's.
    for name, service in services.items():
        sources = [source for source in mounts(service).values() if source.startswith("keys-")]
        assert name == "keys" or len(sources) == 1, name
        assert name == "keys" or "keys-authority" not in sources, name
    assert services["keys"]["network_mode"] == "none"


@pytest.mark.parametrize("overlays", [(), *((name,) for name in OVERLAYS)])
def test_every_volume_is_declared(overlays: tuple[str, ...]) -> None:
    declared = {volume for name in ("compose.yml", *overlays) for volume in read(name).get("volumes", {})}
    for name, service in merged("compose.yml", *overlays).items():
        used = {source for source in mounts(service).values() if source != "variable"}
        assert used <= declared, name


def test_state_survives_in_a_volume() -> None:
    services = merged("compose.yml", "state.yml")
    assert "--database=/state/superlink.db" in services["superlink"]["command"]
    assert "--isolation=process" in services["superlink"]["command"]
    assert "/state" in mounts(services["superlink"])
    assert "/runs" in mounts(services["superexec"]), "the ServerApp runs there, and writes the results"


def stages() -> dict[str, list[str]]:
    """Instructions of the Dockerfile, a list for each stage; continued lines are joined."""
    text = re.sub(r"\\\n\s*", " ", (DOCKER / "Dockerfile").read_text())
    found: dict[str, list[str]] = {"": []}
    for line in text.splitlines():
        if match := re.match(r"FROM (\S+) AS (\S+)", line):
            found[match[2]] = [line]
        elif line and not line.startswith("#"):
            list(found.values())[-1].append(line)
    return found


def test_both_images_run_as_a_user_and_have_a_health_check() -> None:
    for name in ("superlink", "supernode"):
        lines = stages()[name]
        assert lines[0] == f"FROM runtime AS {name}"
        users = [line for line in [*stages()["runtime"], *lines] if line.startswith("USER ")]
        assert users[-1] == "USER ${UID}"
        assert any(line.startswith("HEALTHCHECK ") for line in lines)
        assert f'ENTRYPOINT ["flower-{name}"]' in lines


def test_no_build_tool_is_in_what_is_shipped() -> None:
    for name in ("environment", "simulation", "runtime", "supernode", "superlink"):
        for line in stages()[name]:
            assert not re.search(r"build-essential|gcc|g\+\+|python3-dev|git\b|curl|rustup", line), line
    assert "--without-pip" in " ".join(stages()["environment"])


def copied() -> set[str]:
    """What the Dockerfile takes from the checkout."""
    lines = [line.split()[1:] for lines in stages().values() for line in lines if line.startswith("COPY ")]
    return {word for words in lines if "--from=" not in words[0] for word in words[:-1] if not word.startswith("--")}


def test_only_what_is_copied_goes_to_the_builder() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*", "everything is left out unless it is named"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert let_in == {source.split("/")[0] for source in copied()}
    assert not let_in & {"runs", ".git", ".venv", ".flwr", "keys"}
    left_out = [rule.removeprefix("**/") for rule in rules[1:] if not rule.startswith("!")]
    for secret in ("ca.key", "server.pem", "ca.crt", "supernode-0.pub", ".env", ".venv", ".git", "runs", "keys"):
        assert any(fnmatch.fnmatch(secret, pattern) for pattern in left_out), secret
    for source in copied():
        assert (ROOT / source).exists(), source


def test_nothing_secret_is_written_down() -> None:
    for path in [*DOCKER.rglob("*"), ROOT / ".dockerignore"]:
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.suffix not in {".key", ".pem", ".pub", ".crt"}, path
            assert "PRIVATE KEY" not in path.read_text(), path
    arguments = {
        line.split()[1].split("=")[0] for lines in stages().values() for line in lines if line.startswith("ARG ")
    }
    assert arguments == {"BASE", "TORCH_INDEX", "EXTRAS", "UID"}, (
        "a build argument stays readable in the image's history"
    )


def test_scripts_parse_and_can_be_executed() -> None:
    for path in [*DOCKER.glob("*.sh"), DOCKER / "health.py"]:
        assert path.stat().st_mode & stat.S_IXUSR, path
    for path in DOCKER.glob("*.sh"):
        done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def engine() -> str | None:
    for name in ("docker", "podman"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True).returncode == 0:
            return name
    return None


@pytest.mark.slow
def test_the_demo_computes_what_the_simulation_does() -> None:
    """Builds gigabytes: only with the images there already, as `docker/smoke.sh` leaves them."""
    name = engine()
    if name is None:
        pytest.skip("neither docker nor podman works here")
    compose = ["docker", "compose"] if name == "docker" else ["podman-compose"]
    if not shutil.which(compose[0]) or subprocess.run([*compose, "version"], capture_output=True).returncode != 0:
        pytest.skip(f"'{' '.join(compose)}' does not work here")
    for image in ("deltamask-superlink", "deltamask-supernode"):
        if subprocess.run([name, "image", "inspect", image], capture_output=True).returncode != 0:
            pytest.skip(f"no image {image} in {name}: run docker/smoke.sh once, which builds it")
    done = subprocess.run(
        [DOCKER / "smoke.sh", "--no-build"], env={**os.environ, "ENGINE": name}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"digests_equal": true' in done.stdout


@pytest.mark.slow
def test_a_fresh_debian_follows_the_tutorial_to_a_prediction() -> None:
    """Half an hour of installation: only with a base image there already (BASE, or the Dockerfile's)."""
    name = engine()
    if name is None:
        pytest.skip("neither docker nor podman works here")
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    base = os.environ.get("BASE") or text.split("ARG BASE=")[1].split()[0]
    if subprocess.run([name, "image", "inspect", base], capture_output=True).returncode != 0:
        pytest.skip(f"no image {base} in {name}: pull it, or name another in BASE")
    done = subprocess.run(
        [DOCKER / "tutorial.sh"], env={**os.environ, "ENGINE": name, "BASE": base}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"/seven/\d+\.png +seven", done.stdout)) > 15, "the digit in the images is named"
    assert "Revoked device-2" in done.stdout
