"""Pages are in step with the code, and what they link to or name is there."""

from __future__ import annotations

import ast
import re
import urllib.parse
from pathlib import Path

import pytest

from docs import architecture, generate
from tests import markdown
from tests.markdown import ROOT

_NAMED = re.compile(
    r"(common|deltamask_server|deltamask_client|tests|benchmarks|conf|docs|deploy|docker)/[\w./-]*[\w/]|[\w-]+\.md"
)


@pytest.mark.parametrize("page", generate.PAGES)
def test_what_is_made_from_the_code_is_in_step_with_it(page: str) -> None:
    assert generate.made(page) == generate.current(page), f"docs/{page} is out of step with the code: make docs"


def test_a_page_without_the_place_for_a_part_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "backbones.md").write_text("<!-- generated: something -->\n<!-- end -->\n")
    monkeypatch.setattr(generate, "DOCS", tmp_path)
    with pytest.raises(ValueError, match=r"docs/backbones.md has places for \['something'\]"):
        generate.made("backbones.md")


def test_the_picture_of_the_architecture_has_every_import_between_rooms() -> None:
    found = {f"{one} -> {other}" for one, other in architecture.imports(ROOT)}
    assert architecture.described() == found, "docs/images/architecture.svg is out of step with the code: make docs"


def test_imports_between_rooms_are_counted(tmp_path: Path) -> None:
    for name, text in {
        "common/__init__.py": "",
        "common/theta.py": "",
        "common/codecs/fuse.py": "from common import theta\nimport numpy\n",
        "deltamask_client/app.py": "import common.theta\n\n\ndef late():\n    from common.codecs import fuse, exact\n",
        "deltamask_server/methods/fedavg/strategy.py": "from common import codecs, theta\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert architecture.rooms(tmp_path) == {
        "common": ("theta",),
        "common/codecs": ("fuse",),
        "deltamask_client": ("app",),
        "deltamask_server": (),
        "deltamask_server/methods": ("fedavg",),
    }
    assert architecture.imports(tmp_path) == {
        ("common/codecs", "common"): 1,
        ("deltamask_client", "common"): 1,
        ("deltamask_client", "common/codecs"): 1,
        ("deltamask_server/methods", "common/codecs"): 1,
        ("deltamask_server/methods", "common"): 1,
    }
    for name in ("one.svg", "two.svg"):
        architecture.draw(tmp_path, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert "deltamask_client -> common/codecs" in architecture.described(tmp_path / "one.svg")


_STEP = re.compile(r"^\d+\. `([\w/]+\.py)`, `([\w.]+)`: ", re.MULTILINE)


def test_every_step_of_the_architecture_names_a_function_that_there_is() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    steps = _STEP.findall(page)
    assert len(steps) == len(re.findall(r"^\d+\. ", page, re.MULTILINE)) == 20
    missing = [f"{file}: {name}" for file, name in steps if name not in _defined(ROOT / file)]
    assert not missing, f"docs/architecture.md names what is not there: {missing}"


def _defined(file: Path) -> set[str]:
    """Functions and classes of a file, and methods as ``Class.method``."""
    body = ast.parse(file.read_text(encoding="utf-8")).body if file.exists() else []
    kinds = ast.FunctionDef | ast.ClassDef
    found = {part.name for part in body if isinstance(part, kinds)}
    classes = [part for part in body if isinstance(part, ast.ClassDef)]
    return found | {f"{one.name}.{part.name}" for one in classes for part in one.body if isinstance(part, kinds)}


@pytest.mark.parametrize("page", markdown.pages())
def test_links_lead_somewhere(page: str) -> None:
    broken = []
    for target in markdown.links(page):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = urllib.parse.unquote(target).partition("#")
        file = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        there = file.is_relative_to(ROOT) and file.exists()
        if anchor and there:
            there = file.suffix == ".md" and anchor in markdown.anchors(str(file.relative_to(ROOT)))
        if not there:
            broken.append(target)
    assert not broken, f"{page} links to what is not there: {broken}"


@pytest.mark.parametrize("page", [page for page in markdown.pages() if page != "CHANGELOG.md"])
def test_files_that_are_named_exist(page: str) -> None:
    """In the changelog they may be gone."""
    named = [span for span in markdown.code_spans(page) if _NAMED.fullmatch(span)]
    named = [span for span in named if not Path(span).name.startswith(".")]  # a user's own, such as docker/.env
    here = (ROOT, (ROOT / page).parent, ROOT / "docs")
    missing = [span for span in named if not any((folder / span).exists() for folder in here)]
    assert not missing, f"{page} names files that are not there: {missing}"


def test_every_page_of_the_docs_is_in_the_index() -> None:
    index = {str((ROOT / "docs" / target.partition("#")[0]).resolve()) for target in markdown.links("docs/README.md")}
    pages = {str(path) for path in (ROOT / "docs").rglob("*.md") if path.name != "README.md"}
    assert pages <= index, f"docs/README.md lacks {sorted(pages - index)}"


def test_pictures_are_small_and_all_of_them_are_shown() -> None:
    shown = {((ROOT / page).parent / target).resolve() for page in markdown.pages() for target in markdown.links(page)}
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture in shown, f"no page shows {picture.name}"
        assert picture.stat().st_size < 200_000


def test_anchors_and_links_are_found_as_on_github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markdown, "ROOT", tmp_path)
    (tmp_path / "a.md").write_text(
        "# The `x`, and [y](b.md#z)!\n\n## Same\n\n## Same\n\n| a |\n|---|\n| ![p](c.png) |\n\n    [no](link)\n"
    )
    assert markdown.anchors("a.md") == {"the-x-and-y", "same", "same-1"}
    assert markdown.links("a.md") == ["b.md#z", "c.png"]
