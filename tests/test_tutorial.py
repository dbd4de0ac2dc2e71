"""The tutorial's commands, run in order as they stand: they end with the right class for an image."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from docs.run_tutorial import PAGE, Block, Tutorial, blocks

SECONDS = 1800
"""For one block; the longest is the run."""


def test_every_block_says_where_it_runs() -> None:
    page = PAGE.read_text(encoding="utf-8")
    found = blocks(page)
    assert len(found) == page.count("```bash")
    assert {block.machine for block in found} == {"install", "server", "device-1", "device-2"}
    assert [block.machine for block in found if block.background] == ["server", "device-1", "device-2"]


def test_a_shell_keeps_its_variables_and_what_runs_in_the_background_ends(tmp_path: Path) -> None:
    with Tutorial(tmp_path, free_ports=True) as tutorial:
        tutorial.install(Block("install", False, None, "export INSTALLED='a\nb'\n"))
        assert tutorial.run(Block("device-2", False, None, 'echo "$INSTALLED"\n'), 60) == "a\nb\n"
        tutorial.run(Block("server", False, None, "export A=1\ncat <<END >/dev/null\n$A\nEND\n"), 60)
        assert tutorial.run(Block("server", False, None, "echo $A ~\n"), 60) == f"1 {tmp_path}\n"
        serve = "python -m http.server --bind 127.0.0.1 $(echo --port 18000 | cut -c 8-)\n"
        tutorial.run(Block("server", True, 18000, serve), 60)
        background = list(tutorial.shells.values())[-1].process
        assert background.poll() is None
        with pytest.raises(RuntimeError, match="false"):
            tutorial.run(Block("device-1", False, None, "false\ntouch ~/not-reached\n"), 60)
    assert background.poll() is not None
    assert not (tmp_path / "not-reached").exists()


@pytest.mark.slow
def test_the_tutorial_ends_with_a_prediction(tmp_path: Path) -> None:
    printed: dict[str, str] = {}
    with Tutorial(tmp_path, free_ports=True) as tutorial:
        for block in blocks(PAGE.read_text(encoding="utf-8")):
            if block.machine != "install":  # this environment has it all
                printed[block.commands.split("\n")[-2]] = tutorial.run(block, SECONDS)
    results = json.loads((tmp_path / "tutorial" / "runs" / "latest" / "results.json").read_text())
    assert results["status"] == "completed"
    assert len(results["rounds"]) == 3
    assert results["rounds"][-1]["accuracy"]["mean"] > 0.9
    predictions = next(text for command, text in printed.items() if command.startswith("deltamask predict"))
    named = re.findall(r"^\S+/seven/\d+\.png +(\w+) [\d.]+ %", predictions, re.MULTILINE)
    assert len(named) == len(list((tmp_path / "tutorial" / "images" / "test" / "seven").iterdir()))
    assert named.count("seven") > 0.8 * len(named)
    assert "Revoked device-2" in next(text for command, text in printed.items() if "revoke" in command)
