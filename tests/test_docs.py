"""Pages are in step with the code, and what they link to or name is there."""

from __future__ import annotations

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


def test_the_picture_of_the_architecture_has_every_room_and_arrow() -> None:
    arrows = {f"{one} -> {other}" for one, other in architecture.imports(ROOT)}
    assert architecture.described() == arrows, "docs/images/architecture.svg is out of step with the imports: make docs"


def test_an_import_makes_an_arrow(tmp_path: Path) -> None:
    for name, text in {
        "common/wire.py": "",
        "common/codecs/exact.py": "from common.wire import pack",
        "deltamask_client/app.py": "",
        "deltamask_server/app.py": "def late():\n    import common.codecs.exact",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert architecture.imports(tmp_path) == {
        ("common/codecs", "common"): 1,
        ("deltamask_server", "common/codecs"): 1,
    }
    architecture.draw(tmp_path, tmp_path / "picture.svg")
    assert "deltamask_server -> common/codecs" in architecture.described(tmp_path / "picture.svg")


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
