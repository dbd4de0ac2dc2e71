from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.extras import require
from docker.requirements import requirements

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", each)[0].lower().replace("_", "-") for each in requirements}


def test_a_module_that_is_there_is_imported() -> None:
    assert require("json.decoder", "hub", "this test") is sys.modules["json.decoder"]


def test_a_missing_package_is_one_line_that_says_how_to_install_it() -> None:
    with pytest.raises(ConfigError) as caught:
        require("no_such_package.part", "openclip", "backbone = 'open_clip:ViT-B-32/openai'")
    assert str(caught.value) == (
        "backbone = 'open_clip:ViT-B-32/openai' needs the package no_such_package, which is not installed here: "
        'pip install "deltamask[openclip]"'
    )


def test_a_package_that_lacks_another_one_names_that(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "half_installed.py").write_text("import what_it_needs\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"^figures needs the package what_it_needs, which .*\[figures\]"):
        require("half_installed", "figures", "figures")


def test_every_extra_that_the_code_names_is_one() -> None:
    calls = re.compile(r"require\(\s*\"[\w.]+\",\s*\"(\w+)\"")
    files = [
        path
        for folder in ("common", "deltamask_server", "deltamask_client", "deploy")
        for path in (ROOT / folder).rglob("*.py")
    ]
    named = {extra for path in files for extra in calls.findall(path.read_text(encoding="utf-8"))}
    assert named
    assert named <= set(EXTRAS)


def test_a_device_installs_nothing_that_only_others_need() -> None:
    heavy = {"ray", "scikit-learn", "flwr-datasets", "open-clip-torch", "matplotlib", "psutil", "peft"}
    assert not heavy & names(PROJECT["dependencies"])
    assert "flwr~=" in " ".join(PROJECT["dependencies"]), "without the simulation's extra"


def test_requirements_of_extras_hold_those_of_the_extras_that_they_name() -> None:
    assert requirements(PROJECT, []) == PROJECT["dependencies"]
    simulation = requirements(PROJECT, ["simulation"])
    assert {"scikit-learn", "flwr-datasets", "psutil"} <= names(simulation)
    assert any(each.startswith("flwr[simulation]") for each in simulation)
    assert not any(each.startswith("deltamask") for each in requirements(PROJECT, list(EXTRAS)))
    with pytest.raises(SystemExit, match="there is no extra hubs; choose among digits, "):
        requirements(PROJECT, ["hubs"])
