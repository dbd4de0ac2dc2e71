"""deploy/tls/keys.sh: files of the right kind and mode, certificates that verify; it overwrites nothing."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

KEYS_SH = Path(__file__).parents[1] / "deploy" / "tls" / "keys.sh"
pytestmark = pytest.mark.skipif(
    not (shutil.which("openssl") and shutil.which("ssh-keygen")), reason="needs openssl and ssh-keygen"
)


def keys_sh(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(KEYS_SH), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **env})


def made(*arguments: str | Path) -> str:
    done = keys_sh(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def openssl(*arguments: str | Path) -> str:
    command = ["openssl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CA; tests copy it where they change it."""
    folder = tmp_path_factory.mktemp("authority") / "keys"
    made("ca", folder)
    return folder


@pytest.fixture
def keys(authority: Path, tmp_path: Path) -> Path:
    return shutil.copytree(authority, tmp_path / "keys")


def alternative_names(certificate: Path) -> list[str]:
    lines = openssl("x509", "-in", certificate, "-noout", "-ext", "subjectAltName").splitlines()
    return lines[1].strip().split(", ")


def test_alone_it_prints_its_usage() -> None:
    done = keys_sh()
    assert done.returncode == 0
    for command in ("ca", "server", "node", "register", "revoke", "list"):
        assert f"  keys.sh {command} " in done.stdout


def test_the_authority_signs_and_no_other_folder_or_file_is_open(authority: Path) -> None:
    assert mode(authority) == 0o700
    assert mode(authority / "ca.key") == 0o600
    assert mode(authority / "ca.crt") == 0o644
    text = openssl("x509", "-in", authority / "ca.crt", "-noout", "-text")
    assert "CA:TRUE, pathlen:0" in text
    assert "Certificate Sign, CRL Sign" in text
    assert sorted(path.name for path in authority.iterdir()) == [".gitignore", "ca.crt", "ca.key"]


def test_git_never_takes_a_folder_of_keys(keys: Path) -> None:
    made("node", keys, "node-0")
    subprocess.run(["git", "init", "--quiet", keys.parent], check=True)
    subprocess.run(["git", "-C", keys.parent, "add", "--all"], check=True)
    listed = subprocess.run(["git", "-C", keys.parent, "ls-files"], check=True, capture_output=True, text=True)
    assert listed.stdout == ""


def test_the_server_certificate_has_the_names_asked_for_and_verifies(keys: Path) -> None:
    said = made("server", keys, "fl.example.org", "192.168.7.20", "fe80::1", "localhost")
    assert said.startswith("Made ")
    assert alternative_names(keys / "server.pem") == [
        "DNS:fl.example.org",
        "IP Address:192.168.7.20",
        "IP Address:FE80:0:0:0:0:0:0:1",
        "DNS:localhost",
        "IP Address:127.0.0.1",
    ]
    assert mode(keys / "server.key") == 0o600
    for name in ("-verify_hostname", "fl.example.org"), ("-verify_ip", "192.168.7.20"), ("-verify_ip", "127.0.0.1"):
        openssl(
            "verify", "-x509_strict", "-purpose", "sslserver", *name, "-CAfile", keys / "ca.crt", keys / "server.pem"
        )
    text = openssl("x509", "-in", keys / "server.pem", "-noout", "-text")
    assert "CA:FALSE" in text
    assert "TLS Web Server Authentication" in text
    # Certificate and key belong together.
    public = openssl("x509", "-in", keys / "server.pem", "-noout", "-pubkey")
    assert public == openssl("pkey", "-in", keys / "server.key", "-pubout")


def test_another_authority_does_not_vouch_for_the_server(keys: Path, tmp_path: Path) -> None:
    made("server", keys, "fl.example.org")
    made("ca", tmp_path / "other")
    with pytest.raises(subprocess.CalledProcessError):
        openssl("verify", "-CAfile", tmp_path / "other" / "ca.crt", keys / "server.pem")


def test_a_server_certificate_is_renewed_and_says_so(keys: Path) -> None:
    made("server", keys, "old.example")
    before = (keys / "server.pem").read_bytes(), (keys / "server.key").read_bytes()
    said = made("server", keys, "new.example")
    assert said.startswith("Renewed ")
    assert "restart" in said
    assert alternative_names(keys / "server.pem")[0] == "DNS:new.example"
    assert before[0] != (keys / "server.pem").read_bytes()
    assert before[1] != (keys / "server.key").read_bytes()


def test_a_node_key_is_ecdsa_384_and_secret(keys: Path) -> None:
    made("node", keys, "node-0")
    assert mode(keys / "node-0") == 0o600
    listed = subprocess.run(["ssh-keygen", "-l", "-f", keys / "node-0.pub"], capture_output=True, text=True, check=True)
    assert listed.stdout.startswith("384 ")
    assert "(ECDSA)" in listed.stdout
    derived = subprocess.run(
        ["ssh-keygen", "-y", "-P", "", "-f", keys / "node-0"], capture_output=True, text=True, check=True
    )
    assert derived.stdout.split()[:2] == (keys / "node-0.pub").read_text().split()[:2]


@pytest.mark.parametrize("command", [["ca"], ["node", "node-0"]])
@pytest.mark.parametrize("which", [0, 1])
def test_nothing_is_overwritten(keys: Path, command: list[str], which: int) -> None:
    made("node", keys, "node-0")
    pair = ["ca.key", "ca.crt"] if command == ["ca"] else ["node-0", "node-0.pub"]
    (keys / pair[1 - which]).unlink()  # half of a pair is enough to stop
    before = (keys / pair[which]).read_bytes()
    done = keys_sh(command[0], keys, *command[1:])
    assert done.returncode == 1
    assert f"{pair[which]} exists, and is not overwritten" in done.stderr
    assert (keys / pair[which]).read_bytes() == before
    assert not (keys / pair[1 - which]).exists()


@pytest.mark.parametrize("name", ["", "../node", "a/b", "ca.key", "-f", "a b", ".hidden", "é", "x" * 64])
@pytest.mark.parametrize("command", ["node", "register", "revoke"])
def test_bad_names_of_nodes_are_refused(keys: Path, command: str, name: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    (flwr := tmp_path / "bin" / "flwr").parent.mkdir()
    flwr.write_text("#!/bin/sh\nexit 3\n")  # it must not be asked
    flwr.chmod(0o700)
    connection = [] if command == "node" else ["field"]
    done = keys_sh(command, keys, name, *connection, PATH=f"{flwr.parent}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode == 1
    assert "is no name for a node" in done.stderr or "is empty" in done.stderr
    assert sorted(path for path in tmp_path.rglob("*") if flwr.parent not in (path, path.parent)) == before


@pytest.mark.parametrize(
    "name",
    ["https://fl.example", "fl.example:9092", "10.0.0.300", "1.2.3", "a,DNS:b", "a b", "-x", "a..b", "*", "::1::", ""],
)
def test_bad_names_of_servers_are_refused(keys: Path, name: str) -> None:
    before = sorted(keys.iterdir())
    done = keys_sh("server", keys, "fl.example", name)
    assert done.returncode == 1
    assert (name or "is empty") in done.stderr
    assert sorted(keys.iterdir()) == before  # no half of a pair, and no scratch folder


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ca"], "'ca' takes 1 argument"),
        (["ca", "a", "b"], "'ca' takes 1 argument"),
        (["server", "nowhere"], "'server' takes a folder, and the names"),
        (["server", "nowhere", "name"], "there is no nowhere/ca.key: call 'keys.sh ca nowhere' first"),
        (["node", "nowhere"], "'node' takes 2 argument"),
        (["list"], "'list' takes 1 argument"),
        (["sign"], "'sign' is no command"),
    ],
)
def test_wrong_arguments_say_what_to_do(tmp_path: Path, arguments: list[str], expected: str) -> None:
    done = subprocess.run(["bash", str(KEYS_SH), *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 1
    assert expected in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_key_of_another_authority_is_noticed(keys: Path, tmp_path: Path) -> None:
    made("ca", tmp_path / "other")
    shutil.copy(tmp_path / "other" / "ca.key", keys / "ca.key")
    done = keys_sh("server", keys, "fl.example")
    assert done.returncode == 1
    assert "openssl signed nothing" in done.stderr or "are no pair" in done.stderr
    assert not (keys / "server.pem").exists()
