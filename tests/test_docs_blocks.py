"""Code in the documentation runs: Python is executed, shown output is what is printed, and commands have the options,
config keys, values, modules and files that they name.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import itertools
import json
import math
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
import typer
from flwr.common.config import flatten_dict, parse_config_args
from typer.testing import CliRunner

from common.config.node import parse_node_config
from common.config.run import parse_run_config
from deltamask_server.tools.cli import app
from tests import markdown
from tests.markdown import ROOT, Code, blocks, code_spans, commands, heredocs, pages

LANGUAGES = {"", "bash", "console", "ini", "json", "python", "toml", "yaml"}
DEFAULTS = flatten_dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"])
PLAIN = {"apt-get", "cat", "chown", "cp", "export", "git", "journalctl", "ls", "mkdir", "pkill", "rm", "scp"}
PLAIN |= {"source", "sudo", "systemctl"}
"""Commands of the system, which nobody can check here; every other one needs a check of its own below."""
_NUMBER = re.compile(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?(?!\w)")


def by_place(found: list[Code]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", found, ids=str)


def test_every_language_is_one_that_is_checked() -> None:
    assert {block.language for block in blocks()} <= LANGUAGES
    assert {"", "bash", "python", "toml"} <= {block.language for block in blocks()}


# -- Python, TOML, JSON ------------------------------------------------------------------------------------------------


@by_place(blocks("python"))
def test_python_runs(block: Code, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = compile(block.text, str(block), "exec")
    if "runs/" in block.text:  # a run's files are not here: what it imports is
        imports = [part for part in ast.parse(block.text).body if isinstance(part, ast.Import | ast.ImportFrom)]
        program = compile(ast.Module(imports, []), str(block), "exec")
    exec(program, {})


@by_place(blocks("toml", "json"))
def test_toml_and_json_parse(block: Code) -> None:
    assert tomllib.loads(block.text) if block.language == "toml" else json.loads(block.text)


# -- Shown output ------------------------------------------------------------------------------------------------------


SESSIONS = [block for block in blocks("") if block.text.startswith("$ deltamask ")]


@by_place(SESSIONS)
def test_shown_output_is_what_is_printed(block: Code) -> None:
    command, _, shown = block.text.partition("\n")
    result = CliRunner().invoke(app, command.split()[2:], env={"COLUMNS": "80", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    assert alike(shown, result.output), f"{block} shows other output than\n{result.output}"


def alike(one: str, other: str) -> bool:
    """Equal but for spaces, and for numbers within 2 %: zlib and processors differ by a few bytes."""
    texts = [[line.split() for line in _NUMBER.sub("#", text).strip().splitlines()] for text in (one, other)]
    numbers = [[float(found.replace(",", "")) for found in _NUMBER.findall(text)] for text in (one, other)]
    return texts[0] == texts[1] and all(math.isclose(a, b, rel_tol=0.02) for a, b in zip(*numbers, strict=True))


def test_output_that_differs_is_noticed() -> None:
    assert SESSIONS
    assert alike("a  1,000 bytes\n", "a 1,001 bytes")
    assert not alike("a 1,000 bytes", "a 1,030 bytes")
    assert not alike("digest 5f01", "digest 5f02")
    assert not alike("a\nb", "a b")


# -- Commands ----------------------------------------------------------------------------------------------------------


SCRIPTS = blocks("bash")


@by_place(SCRIPTS)
def test_scripts_are_bash(block: Code) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    for line, text in heredocs(block.text):
        if line.startswith("python "):
            compile(text, str(block), "exec")


@by_place(SCRIPTS)
def test_commands_are_what_they_say(block: Code) -> None:
    found = commands(block.text)
    assert found
    for words in found:
        check(words)


@pytest.mark.parametrize("page", [page for page in pages() if page != "CHANGELOG.md"])
def test_commands_within_the_text_are_what_they_say(page: str) -> None:
    for span in code_spans(page):
        words = span.split()
        if len(words) > 1 and words[0] in {"python", "make", "deltamask", "flwr"}:
            for found in commands(span):
                check(found)


@pytest.mark.parametrize(
    "line",
    [
        "flwr run . local -c 'num-server-round=3'",
        "flwr run . local -c \"codec='fuse9'\"",
        "flwr run . local --run-config conf/missing.toml",
        "flwr run . local --no-such-option",
        "flower-supernode --node-config \"partition-id=3 num-partitions=3\"",
        "flower-superlink --no-such-option",
        "deltamask explain x",
        "deltamask predict --weight x",
        "make nothing",
        "python -m benchmarks.nothing",
        "python deploy/nothing.py",
        "deploy/tls/keys.sh nothing keys",
        "sudo deploy/tls/keys.sh ca keys --no-such-option",
        "docker compose -f docker/nothing.yml up",
        "no-such-command",
    ],
)  # fmt: skip
def test_a_wrong_command_is_noticed(line: str) -> None:
    with pytest.raises((AssertionError, ValueError, click.ClickException, FileNotFoundError)):
        check(commands(line)[0])


def check(words: list[str]) -> None:
    """Check one command, as far as it can be without running it."""
    command, *arguments = [word for word in words if word != "..."]
    for flag, value in itertools.pairwise(arguments):
        if flag in {"-c", "--run-config"} and value.lower() != "file":
            check_run_config(value)
        if flag == "--node-config":
            parse_node_config(parse_config_args([value]))
    if command == "deltamask":
        parse(app, command, arguments)
    elif command == "flwr":
        from flwr.cli.app import app as flower

        parse(flower, command, arguments)
    elif command in {"flower-superlink", "flower-supernode"}:
        given = {argument for argument in arguments if argument.startswith("-")}
        assert given <= options(command), f"{command} has no {given - options(command)}"
    elif command == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(arguments) <= set(targets), f"the Makefile has no {arguments}"
    elif command == "python":
        check_python(arguments)
    elif command in {"docker", "podman", "podman-compose"}:
        files = [value for flag, value in itertools.pairwise(arguments) if flag in {"-f", "--file"}]
        assert all((ROOT / file).is_file() for file in files), f"not all of {files} are there"
    elif command == "sudo" and arguments and not arguments[0].startswith("-"):
        check(arguments)
    elif "/" in command:
        assert (ROOT / command).exists(), f"there is no {command}"
        known = (ROOT / command).read_text()
        missing = [argument for argument in arguments if argument.startswith("--") and argument not in known]
        assert not missing, f"{command} has no {missing}"
        if command.endswith("keys.sh"):
            assert arguments[0] in keys_commands(), f"keys.sh has no {arguments[0]}"
    else:
        assert command in PLAIN, f"nothing checks {command!r} here"


def check_run_config(value: str) -> None:
    """A file, or keys and values: all of the app, and allowed."""
    if value.startswith("runs/") and value.endswith("/resume.toml"):
        return  # a run has written it: tests/test_resume.py goes on with one
    if value.endswith(".toml"):
        found = flatten_dict(tomllib.loads((ROOT / value).read_text()))
    else:
        found = parse_config_args([value])
    assert set(found) <= set(DEFAULTS), f"a run has no {set(found) - set(DEFAULTS)}"
    parse_run_config(DEFAULTS | found)


def check_python(arguments: list[str]) -> None:
    if arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1]), f"there is no module {arguments[1]}"
    elif arguments[0] not in {"-", "-c"}:
        assert (ROOT / arguments[0]).is_file(), f"there is no {arguments[0]}"


def parse(group: typer.Typer, name: str, arguments: list[str]) -> None:
    """Parse arguments by a command line, and do nothing."""
    command: click.Command = typer.main.get_command(group)
    context: click.Context | None = None
    while isinstance(command, click.Group):
        context = click.Context(command, info_name=name, parent=context)
        if not arguments or arguments == ["--help"]:
            return
        name, found, arguments = command.resolve_command(context, arguments)
        assert found is not None
        command = found
    if not all(argument.isupper() for argument in arguments):  # placeholders, or none at all: the command is meant
        command.make_context(name, list(arguments), parent=context)


@functools.cache
def options(command: str) -> set[str]:
    """What a command of Flower takes."""
    program = Path(sys.executable).parent / command
    shown = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", shown))


@functools.cache
def keys_commands() -> set[str]:
    """What deploy/tls/keys.sh takes."""
    shown = subprocess.run(["bash", str(ROOT / "deploy/tls/keys.sh")], capture_output=True, text=True, check=True)
    return set(re.findall(r"^ +keys\.sh (\w+)", shown.stdout, re.MULTILINE))


# -- What reads the pages ----------------------------------------------------------------------------------------------


def test_commands_are_read_as_a_shell_reads_them() -> None:
    script = (
        "A=1 one 'x y' --z  # comment\n"
        "two \\\n    three >log 2>&1; four | five &\n"
        "cat >file <<'END'\nsix\nEND\n"
        'seven "$A"\n'
    )
    assert commands(script) == [["one", "x y", "--z"], ["two", "three"], ["four"], ["five"], ["cat"], ["seven", "$A"]]
    assert heredocs(script) == [("cat >file <<'END'", "six\n")]


def test_blocks_are_found_with_their_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markdown, "ROOT", tmp_path)
    monkeypatch.setattr(markdown, "pages", lambda: ["a.md"])
    (tmp_path / "a.md").write_text(
        "text `make x`\n\n```bash server background\nls\n```\n\n- in a list:\n\n  ```\n  b\n  ```\n"
    )
    assert [(b.language, b.words, b.text) for b in blocks()] == [
        ("bash", ("server", "background"), "ls\n"),
        ("", (), "b\n"),
    ]
    assert code_spans("a.md") == ["make x"]
