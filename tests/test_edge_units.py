"""deploy/edge: the units are sound and tight, and install.sh refuses what makes no sense before it changes anything."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EDGE = Path(__file__).parents[1] / "deploy" / "edge"
UNITS = ("deltamask-supernode.service", "deltamask-superlink.service")
INSTALL = EDGE / "install.sh"
FIRST = ["--superlink", "server.example:9092", "--partition-id", "0", "--num-partitions", "2"]


def call(*command: str | Path) -> tuple[int, str]:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def systemd_analyze() -> str:
    found = shutil.which("systemd-analyze")
    if not found:
        pytest.skip("no systemd-analyze on this machine")
    return found


@pytest.mark.parametrize("unit", UNITS)
def test_units_are_valid(systemd_analyze: str, unit: str, tmp_path: Path) -> None:
    # The program that a unit names must exist: the one of this environment stands for the installed one.
    text = (EDGE / unit).read_text().replace("/opt/deltamask/venv/bin", str(Path(sys.executable).parent))
    (tmp_path / unit).write_text(text)
    assert call(systemd_analyze, "verify", "--man=no", tmp_path / unit) == (0, "")


@pytest.mark.parametrize("unit", UNITS)
def test_units_are_tight(systemd_analyze: str, unit: str) -> None:
    """Of 10, which is a service without any limits. What is left: the network, GPUs, and libraries that compile."""
    status, output = call(systemd_analyze, "security", "--offline=true", "--threshold=20", "--no-pager", EDGE / unit)
    if "unrecognized option" in output or "Unknown" in output:
        pytest.skip("this systemd-analyze judges no files")
    assert status == 0, output


@pytest.mark.parametrize("unit", UNITS)
def test_units_use_what_the_installer_sets(unit: str) -> None:
    used = set(re.findall(r"\$\{?(DELTAMASK_\w+)", (EDGE / unit).read_text()))
    written = set(re.findall(r"setting (\w+) ", INSTALL.read_text()))
    assert used
    assert used <= written


@pytest.mark.parametrize("script", sorted(path.name for path in EDGE.glob("*.sh")))
def test_scripts_are_bash(script: str) -> None:
    assert call("bash", "-n", EDGE / script) == (0, "")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "Usage: install.sh supernode"),
        (["gateway"], "Usage: install.sh supernode"),
        (["supernode", "--fleet", "0.0.0.0:9092"], "supernode has no option --fleet"),
        (["supernode", "--superlink"], "--superlink needs a value"),
        (["supernode", *FIRST], "--ca is needed at the first installation"),
        (["supernode", "--insecure"], "--superlink is needed at the first installation"),
        (["supernode", *FIRST, "--ca", "/nowhere/ca.crt"], "--ca /nowhere/ca.crt: no such file"),
        (["supernode", *FIRST, "--insecure", "--superlink", "server"], "HOST:PORT is needed"),
        (["supernode", *FIRST, "--insecure", "--extras", "openclip hub"], "names are needed, separated by commas"),
        (["supernode", *FIRST, "--insecure", "--partition-id", "one"], "--partition-id one: a number is needed"),
        (["supernode", *FIRST, "--insecure", "--data", "/home/me/images"], "the service sees no home"),
        (["supernode", *FIRST, "--insecure", "--data", "images"], "a full path is needed"),
        (["supernode", *FIRST, "--insecure", "--data", '/srv/"x"'], "are not possible here"),
        (["superlink", "--ca", str(INSTALL)], "--certificate is needed at the first installation"),
    ],
)
def test_the_installer_refuses_what_makes_no_sense(options: list[str], expected: str) -> None:
    if Path("/etc/deltamask").exists():
        pytest.skip("DeltaMask is installed on this machine")
    status, output = call(INSTALL, *options)
    assert status == 2, output
    assert expected in output


def test_help_is_text_and_runs_nothing() -> None:
    done = subprocess.run(
        [str(INSTALL), "--help"], capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}
    )
    assert done.stderr == ""
    assert all(
        f"--{option} " in done.stdout
        for option in ("superlink", "ca", "key", "facts", "data", "fleet", "from", "insecure")
    )


def test_the_uninstaller_says_how_it_is_used() -> None:
    status, output = call(EDGE / "uninstall.sh", "supernode", "--everything")
    assert status == 2
    assert "Usage: uninstall.sh" in output
