"""A node that is in order, for each test to spoil in one way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deltamask_server.tools.doctor import Setting
from deltamask_server.tools.doctor.setting import parse_address
from tests.certificates import Authority, Pair, write_node_key
from tests.doctor.checks import run
from tests.fleet import Fleet
from tests.images import write_folder


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
