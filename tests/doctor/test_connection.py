"""Faults between a node and its SuperLink: TLS, addresses, keys, clocks, versions."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deltamask_server.tools.doctor import Setting, Status
from deltamask_server.tools.doctor.setting import Address, parse_address
from deploy.processes import free_port
from tests.certificates import Authority, Pair, write_node_key
from tests.doctor.checks import findings, the_fault
from tests.fleet import Fleet
from tests.listeners import Server, tls_server


def test_a_healthy_node_passes_every_check(setting: Setting) -> None:
    found = findings(setting)
    assert {each.status for each in found} == {Status.ok}, found
    assert [each.check for each in found if each.check != "clock"] == [
        *("python", "libraries", "device", "disk: Flower"),
        *("ca", "key", "reachable", "tls", "grpc", "sign-in"),
        *("weights", "disk: cache", "data", "data: files", "data: images", "versions"),
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
