"""Who may import whom: common nobody outside, server and client never each other, and nothing in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("common", "deltamask_server", "deltamask_client")
FORBIDDEN = {
    "common": ("deltamask_server", "deltamask_client"),
    "deltamask_server": ("deltamask_client",),
    "deltamask_client": ("deltamask_server",),
}
MOST_LINES = 400


def modules() -> dict[str, Path]:
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


MODULES = modules()


def imported(tree: ast.AST, everywhere: bool) -> Iterator[str]:
    """Names of modules that a file imports: where it is loaded, or anywhere in it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)
        elif everywhere or not _later(node):
            yield from imported(node, everywhere)


def _later(node: ast.AST) -> bool:
    """Code that does not run while a file is loaded."""
    only_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    return only_types or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_layer_imports_only_what_is_below_it(package: str) -> None:
    for name, path in MODULES.items():
        if name.partition(".")[0] == package:
            wrong = [
                other for other in imported(ast.parse(path.read_text()), True) if other.startswith(FORBIDDEN[package])
            ]
            assert not wrong, f"{name} imports {wrong}"


def test_nothing_imports_in_a_circle() -> None:
    graph = {
        name: {other for other in imported(ast.parse(path.read_text()), False) if other in MODULES} - {name}
        for name, path in MODULES.items()
    }
    # A package is loaded before what is in it; that it in turn imports its own modules is what packages are for.
    for name, others in graph.items():
        graph[name] = {other for other in others if not name.startswith(f"{other}.")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_a_run_needs_no_tool_but_the_report_that_it_writes() -> None:
    for name, path in MODULES.items():
        if name.startswith("deltamask_server") and not name.startswith("deltamask_server.tools"):
            used = {other for other in imported(ast.parse(path.read_text()), False) if "server.tools" in other}
            assert used <= {"deltamask_server.tools.report"}, f"{name} imports {sorted(used)}"


def test_no_file_is_longer_than_one_can_read() -> None:
    files = [
        path
        for folder in (*PACKAGES, "tests", "benchmarks", "deploy", "docker", "docs")
        for path in (ROOT / folder).rglob("*.py")
    ]
    long = {
        str(path.relative_to(ROOT)): lines for path in files if (lines := path.read_text().count("\n")) > MOST_LINES
    }
    assert not long
