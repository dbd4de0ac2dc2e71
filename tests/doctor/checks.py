"""Run the checks, and read what they found."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from typer.testing import CliRunner, Result

from deltamask_server.tools.cli import app
from deltamask_server.tools.doctor import Finding, Setting, Status, examine


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
