"""`deltamask doctor` finds what is wrong, and only that: real certificates, sockets, files and Flower's own server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from common.config.cache_path import default_cache_path
from deltamask_server.tools.cli import app
from deltamask_server.tools.doctor import Finding, Setting, Status, examine
from deltamask_server.tools.doctor.data import check_data
from deltamask_server.tools.doctor.setting import Address, parse_address, read_settings
from deploy.processes import free_port
from tests.certificates import Authority, Pair, write_node_key
from tests.fleet import Fleet
from tests.images import write_folder
from tests.listeners import Server, tls_server

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.server("127.0.0.1", "localhost")


@pytest.fixture(scope="module")
def fleet(authority: Authority, pair: Pair) -> Iterator[Fleet]:
    fleet = Fleet((authority.file, *pair))
    yield fleet
    fleet.close()


@pytest.fixture
def setting(tmp_path: Path, authority: Authority, fleet: Fleet) -> Setting:
    """A node at which nothing is wrong."""
    fleet.register(write_node_key(tmp_path / "node"))
    facts = tmp_path / "facts.json"
    written = run("--write-facts", facts, "--root-certificates", authority.file)
    assert written.exit_code == 0, written.output
    return Setting(
        superlink=parse_address(fleet.address),
        root_certificates=authority.file,
        auth_key=tmp_path / "node",
        data=f"folder:{write_folder(tmp_path / 'images', {'apple': 3, 'fern': 2})}",
        device="cpu",
        facts=facts,
        flwr_home=tmp_path / "flwr",
        cache=tmp_path / "cache",
        free_disk_gb=0.001,
    )


def run(*args: str | Path) -> Result:
    arguments = ["doctor", *map(str, args)]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "100", "TERM": "dumb"})


def findings(setting: Setting, now: datetime | None = None) -> list[Finding]:
    """Without what may really be said of the machine that runs the tests: little memory free, no synchronised clock."""
    found = examine(setting, now or datetime.now(UTC))
    return [each for each in found if each.check != "memory" and not each.found.endswith("not synchronised")]


def the_fault(setting: Setting, now: datetime | None = None) -> Finding:
    """The one finding that is not ok."""
    bad = [each for each in findings(setting, now) if each.status != Status.ok]
    assert len(bad) == 1, bad
    assert bad[0].advice, "it does not say what to do"
    return bad[0]


def test_a_healthy_node_passes_every_check(setting: Setting) -> None:
    found = findings(setting)
    assert {each.status for each in found} == {Status.ok}, found
    assert [each.check for each in found if each.check != "clock"] == [
        *("python", "libraries", "device", "disk: Flower"),
        *("ca", "key", "reachable", "tls", "grpc", "sign-in"),
        *("weights", "disk: cache", "data", "versions"),
    ]
    data = next(each for each in found if each.check == "data")
    assert "5 images of 2 classes" in data.found


# -- TLS ---------------------------------------------------------------------------------------------------------------


def test_the_ca_of_another_server(setting: Setting, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "somebody else")
    setting.root_certificates = other.file
    setting.facts = None
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("tls", Status.failed)
    assert "is not signed by the CA of" in fault.found
    assert "CN=test CA" in fault.found


def test_a_ca_that_is_not_that_of_the_facts(setting: Setting, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    setting.root_certificates, setting.superlink = other.file, None
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("ca", Status.failed)
    assert "is not the CA of the server's facts" in fault.found


def test_a_certificate_without_the_name(setting: Setting, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    setting.root_certificates, setting.auth_key, setting.facts = authority.file, None, None
    with tls_server(authority.server("server.example", "10.0.0.5")) as server:
        setting.superlink = server.address
        fault = the_fault(setting)
    assert (fault.check, fault.status) == ("tls", Status.failed)
    assert "is for server.example, 10.0.0.5, not 127.0.0.1" in fault.found


@pytest.mark.parametrize(
    ("start", "end", "status", "found"),
    [
        (-10, -2, Status.failed, "expired on"),
        (1, 9, Status.failed, "is valid from"),
        (-10, 2, Status.warning, "expires on"),
    ],
)
def test_a_certificate_out_of_its_time(
    setting: Setting, tmp_path: Path, start: float, end: float, status: Status, found: str
) -> None:
    authority = Authority(tmp_path / "authority")
    setting.root_certificates, setting.auth_key, setting.facts = authority.file, None, None
    with tls_server(authority.server("127.0.0.1", start=start, end=end)) as server:
        setting.superlink = server.address
        fault = the_fault(setting)
    assert (fault.check, fault.status) == ("tls", status)
    assert found in fault.found
    assert ("clock is behind" in fault.advice) == (start > 0)


def test_an_expired_ca(setting: Setting, tmp_path: Path) -> None:
    setting.root_certificates = Authority(tmp_path / "authority", start=-20, end=-1).file
    setting.superlink = setting.facts = None
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("ca", Status.failed)
    assert "expired on" in fault.found


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_a_missing_or_damaged_ca_file(setting: Setting, tmp_path: Path, content: bytes | None) -> None:
    setting.root_certificates, setting.facts = tmp_path / "lost.crt", None
    if content:
        setting.root_certificates.write_bytes(content)
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("ca", Status.failed)
    assert "lost.crt" in fault.found


def test_a_port_that_speaks_no_tls(setting: Setting) -> None:
    setting.auth_key = None
    with Server(lambda connection: connection.sendall(b"220 mail.example ESMTP\r\n")) as server:
        setting.superlink = server.address
        fault = the_fault(setting)
    assert (fault.check, fault.status) == ("tls", Status.failed)
    assert "does not speak TLS" in fault.found


def test_a_web_server_instead_of_the_fleet_api(setting: Setting, pair: Pair) -> None:
    with tls_server(pair, ("http/1.1",)) as server:
        setting.superlink = server.address
        fault = the_fault(setting)
    assert (fault.check, fault.status) == ("grpc", Status.failed)
    assert "9092" in fault.advice


def test_insecure_is_a_warning_and_the_wrong_choice_where_the_server_speaks_tls(
    setting: Setting,
) -> None:
    setting.insecure, setting.root_certificates, setting.auth_key = True, None, None
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("tls", Status.failed)
    assert "speaks TLS, and this machine is set to --insecure" in fault.found

    plain = Fleet()
    try:
        setting.superlink = parse_address(plain.address)
        fault = the_fault(setting)
    finally:
        plain.close()
    assert (fault.check, fault.status) == ("tls", Status.warning)


# -- The way there -----------------------------------------------------------------------------------------------------


def test_nothing_listens(setting: Setting) -> None:
    setting.superlink = Address("127.0.0.1", free_port())
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("reachable", Status.failed)
    assert "nothing listens there" in fault.found


def test_a_name_that_does_not_exist(setting: Setting) -> None:
    setting.superlink = Address("no-such-host.invalid", 9092)
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("reachable", Status.failed)
    assert "no known name" in fault.found


# -- Keys --------------------------------------------------------------------------------------------------------------


def test_a_key_that_others_may_read(setting: Setting) -> None:
    assert setting.auth_key
    setting.auth_key.chmod(0o644)
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("key", Status.failed)
    assert "has mode 0644" in fault.found
    assert fault.advice == f"chmod 600 {setting.auth_key}"


def test_a_key_of_another_kind(setting: Setting, pair: Pair) -> None:
    setting.auth_key = pair.key
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("key", Status.failed)
    assert "ssh-keygen" in fault.advice


def test_a_key_that_is_not_registered(setting: Setting, tmp_path: Path) -> None:
    write_node_key(tmp_path / "stranger")
    setting.auth_key = tmp_path / "stranger"
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("sign-in", Status.failed)
    assert "does not know this node's key" in fault.found


def test_a_server_key_that_is_not_of_its_certificate(setting: Setting, tmp_path: Path, pair: Pair) -> None:
    setting.auth_key = None
    setting.server_certificate, setting.server_key = pair
    assert all(each.status == Status.ok for each in findings(setting))
    setting.server_key = Authority(tmp_path / "other").server("127.0.0.1").key
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("server key", Status.failed)


# -- Clock -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [60, -600])
def test_the_superlink_refuses_a_clock_that_is_wrong(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    from flwr.client.grpc_rere_client import node_auth_client_interceptor

    skewed = datetime.now(UTC) + timedelta(seconds=seconds)
    monkeypatch.setattr(node_auth_client_interceptor, "now", lambda: skewed)  # the node's own clock, as it signs
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("clock", Status.failed)
    assert "ahead of the SuperLink's" in fault.found


def test_a_clock_behind_the_facts_of_the_server(setting: Setting) -> None:
    fault = the_fault(setting, datetime.now(UTC) - timedelta(minutes=10))
    assert (fault.check, fault.status) == ("clock", Status.failed)
    assert "clock is behind" in fault.advice


def test_a_clock_that_was_never_set(setting: Setting) -> None:
    setting.superlink = setting.root_certificates = setting.facts = None
    fault = the_fault(setting, datetime(1970, 1, 1, 0, 5, tzinfo=UTC))
    assert (fault.check, fault.status) == ("clock", Status.failed)
    assert "never set" in fault.found


# -- Versions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "status", "found"),
    [
        ("deltamask", "0.0.1", Status.failed, "deltamask 0.0.1 there"),
        ("flwr", "1.38.2", Status.failed, "flwr 1.38.2 there"),
        ("wire", "7", Status.failed, "the payloads' format 7 there"),
        ("weights", "00", Status.failed, "the embedded weights 00 there"),
        ("torch", "1.13.1", Status.warning, "torch 1.13.1 there"),
        ("python", "3.9.2", Status.warning, "python 3.9.2 there"),
    ],
)
def test_other_versions_on_the_server(setting: Setting, name: str, value: str, status: Status, found: str) -> None:
    assert setting.facts
    setting.facts.write_text(json.dumps(json.loads(setting.facts.read_text()) | {name: value}))
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("versions", status)
    assert found in fault.found


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"written": 3}', None])
def test_facts_that_are_none(setting: Setting, content: bytes | None) -> None:
    assert setting.facts
    setting.facts.unlink() if content is None else setting.facts.write_bytes(content)
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("facts", Status.failed)
    assert "--write-facts" in fault.advice


# -- Images ------------------------------------------------------------------------------------------------------------


def test_a_missing_data_folder(setting: Setting, tmp_path: Path) -> None:
    setting.data = f"folder:{tmp_path / 'nowhere'}"
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("data", Status.failed)
    assert "no folder at" in fault.found


def test_a_folder_without_class_folders(setting: Setting, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "deep", {"apple": 2}) / "apple"
    setting.data = f"folder:{folder}"
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("data", Status.failed)
    assert "it needs a sub-folder for each class" in fault.found


def test_a_class_without_images(setting: Setting, tmp_path: Path) -> None:
    (tmp_path / "images" / "sea").mkdir()
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("data", Status.warning)
    assert "none of sea" in fault.found


def test_images_that_are_broken(setting: Setting, tmp_path: Path) -> None:
    (tmp_path / "images" / "apple" / "half.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("data", Status.warning)
    assert "half.jpg" in fault.found


def test_a_class_folder_that_may_not_be_read() -> None:
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, whose parents are for their owner only
        root = write_folder(Path(name), {"apple": 2, "fern": 2})
        root.chmod(0o755)
        (root / "apple").chmod(0)
        account = os.geteuid()
        if account == 0:
            os.seteuid(65534)  # root may read everything, and this is the account `nobody`
        try:
            (fault,) = check_data(f"folder:{root}", root)
        finally:
            os.seteuid(account)
            (root / "apple").chmod(0o700)
    assert (fault.check, fault.status) == ("data", Status.failed)
    assert f"{root / 'apple'} cannot be read by account" in fault.found


# -- The machine -------------------------------------------------------------------------------------------------------


def test_a_disk_with_too_little_room(setting: Setting) -> None:
    setting.free_disk_gb = 1e9
    bad = [each for each in findings(setting) if each.status != Status.ok]
    assert [each.check for each in bad] == ["disk: Flower", "disk: cache"]
    assert all("GB needed" in each.found for each in bad)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk(setting: Setting, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        (disk / "ballast").write_bytes(b"0" * 65536)
        setting.cache, setting.free_disk_gb = disk / "cache", 0
        fault = the_fault(setting)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert (fault.check, fault.status) == ("disk: cache", Status.failed)
    assert "nothing can be written: No space left" in fault.found


def test_numba_without_a_place_for_its_cache() -> None:
    # As for an account without a home, beside code that only root may change: nothing but NUMBA_CACHE_DIR is tried.
    env = {**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator", "NUMBA_CACHE_DIR": ""}
    command = [sys.executable, "-m", "deltamask_server.tools.cli", "doctor", "--device", "cpu", "--json"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    bad = [each for each in json.loads(done.stdout)["findings"] if each["status"] == "failed"]
    assert [each["check"] for each in bad] == ["libraries"]
    assert "NUMBA_CACHE_DIR" in bad[0]["advice"]


def test_a_device_that_is_not_there(setting: Setting) -> None:
    setting.device = "cuda:77"
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("device", Status.failed)
    assert "cuda:77 does not compute" in fault.found


# -- The command -------------------------------------------------------------------------------------------------------


def options(setting: Setting) -> list[str]:
    chosen = ["--superlink", str(setting.superlink), "--root-certificates", str(setting.root_certificates)]
    chosen += ["--auth-key", str(setting.auth_key), "--facts", str(setting.facts), "--device", "cpu"]
    return [*chosen, "--data", setting.data.removeprefix("folder:"), "--free-disk-gb", "0.001"]


def test_the_command_says_what_to_do(setting: Setting) -> None:
    good = run(*options(setting))
    assert good.exit_code == 0, good.output
    assert "16 checks, 0 failed" in good.output
    assert setting.auth_key
    setting.auth_key.chmod(0o644)
    bad = run(*options(setting))
    assert bad.exit_code == 1
    assert "failed" in bad.output
    assert "-> chmod 600" in bad.output
    report = json.loads(run(*options(setting), "--json").output)
    assert report["ok"] is False
    assert [each["check"] for each in report["findings"] if each["status"] == "failed"] == ["key"]


def test_settings_of_an_installed_node(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLWR_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "/nowhere")  # what the file says is set, and undone behind this test
    file = tmp_path / "supernode.env"
    security = f"--root-certificates {setting.root_certificates} --auth-supernode-private-key {setting.auth_key}"
    lines = {
        "DELTAMASK_SUPERLINK": str(setting.superlink),
        "DELTAMASK_SECURITY": security,
        "DELTAMASK_DATA": setting.data,
        "DELTAMASK_FACTS": str(setting.facts),
        "DELTAMASK_NODE_OPTIONS": "device='cpu' batch-size=8",
        "FLWR_HOME": str(tmp_path / "flwr"),
        "XDG_CACHE_HOME": str(tmp_path / "caches"),
    }
    file.write_text("# a comment\n" + "".join(f'{name}="{value}"\n' for name, value in lines.items()))
    found = read_settings(file)
    expected = Setting(
        superlink=setting.superlink,
        root_certificates=setting.root_certificates,
        auth_key=setting.auth_key,
        data=setting.data,
        device="cpu",
        facts=setting.facts,
        flwr_home=tmp_path / "flwr",
    )
    assert found == expected
    assert default_cache_path() == tmp_path / "caches" / "deltamask"
    done = run("--config", file, "--free-disk-gb", "0.001")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "No such file"),
        ("FLWR_HOME=/tmp\n", "neither DELTAMASK_SUPERLINK nor DELTAMASK_FLEET"),
        ('DELTAMASK_SUPERLINK="server\n', "line 1: No closing quotation"),
        ("DELTAMASK_SUPERLINK=server\n", "HOST:PORT is needed"),
        ("a b c\n", 'NAME="value" is needed'),
    ],
)
def test_settings_that_are_none(tmp_path: Path, content: str | None, expected: str) -> None:
    file = tmp_path / "supernode.env"
    if content is not None:
        file.write_text(content)
    done = run("--config", file)
    assert done.exit_code == 2
    assert expected in done.output


@pytest.mark.parametrize("address", ["server", "server:", ":9092", "server:0", "server:99999", "server:http"])
def test_addresses_that_are_none(address: str) -> None:
    done = run("--superlink", address, "--insecure")
    assert done.exit_code == 2
    assert "HOST:PORT is needed" in done.output


def test_tls_is_not_skipped_by_silence() -> None:
    done = run("--superlink", "127.0.0.1:9092")
    assert done.exit_code == 2
    assert "--root-certificates FILE is needed" in done.output
