"""The command `deltamask` as a whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from common.codecs import available_codecs
from deltamask_server.tools.cli import app
from deltamask_server.tools.codec_comparison.compare import variants

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.payload"))


def run(*args: str | Path, columns: int = 100) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": str(columns), "TERM": "dumb"})


# -- start-up ----------------------------------------------------------------------------------------------------------


def test_a_payload_is_explained_without_torch() -> None:
    code = (
        "import sys; from deltamask_server.tools.cli import app; assert 'numpy' not in sys.modules;"
        f"app(['inspect', {str(GOLDEN[0])!r}], standalone_mode=False); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=Path(__file__).parents[1])


def test_help_names_every_command_and_codecs_are_all_compared() -> None:
    assert {"codec", "inspect"} <= set(run("--help").stdout.split())
    assert "--theta-local" in run("codec", "compare", "--help").stdout
    assert set(available_codecs()) < set(variants())
