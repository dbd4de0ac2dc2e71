"""What the tests of the documentation read out of its pages: links, headings, code blocks, the commands in them."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
_HEREDOC = re.compile(r"(<<-?\s*(['\"]?)(\w+)\2[^\n]*\n)(.*?\n)?\s*\3[ \t]*(?=\n|$)", re.DOTALL)
_ASSIGNMENT = re.compile(r"[A-Z_]+=")


def pages() -> list[str]:
    """Every page that a reader may open, as paths below the root."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md"), *ROOT.glob("docker/*.md")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


@dataclass(frozen=True)
class Code:
    """A fenced block of code."""

    page: str
    line: int
    language: str
    """Empty for plain output."""
    words: tuple[str, ...]
    """What stands behind the language."""
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def tokens(page: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text(encoding="utf-8"))


def blocks(*languages: str) -> list[Code]:
    """All fenced blocks of all pages, or those of some languages."""
    found = []
    for page in pages():
        for token in tokens(page):
            if token.type == "fence":
                language, *words = token.info.split() or [""]
                if not languages or language in languages:
                    assert token.map is not None
                    found.append(Code(page, token.map[0] + 1, language, tuple(words), token.content))
    return found


def inline(page: str) -> Iterator[Token]:
    """Links, pictures and code within the text of a page."""
    for token in tokens(page):
        for child in token.children or ():
            yield child
            yield from child.children or ()


def links(page: str) -> list[str]:
    """Targets of links and pictures."""
    found = [str(token.attrGet("href") or token.attrGet("src") or "") for token in inline(page)]
    return [target for target in found if target]


def code_spans(page: str) -> list[str]:
    """What stands in backticks within the text."""
    return [token.content for token in inline(page) if token.type == "code_inline"]


def anchors(page: str) -> set[str]:
    """Names of a page's headings in links, as GitHub makes them."""
    found: dict[str, int] = {}
    all_tokens = tokens(page)
    for before, token in itertools.pairwise(all_tokens):
        if before.type == "heading_open":
            text = "".join(child.content for child in token.children or ())
            name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found[name] = found.get(name, -1) + 1
    return {f"{name}-{number}" if number else name for name, last in found.items() for number in range(last + 1)}


def heredocs(script: str) -> list[tuple[str, str]]:
    """Here-documents of a script: the line that begins one, up to there, and its text."""
    return [
        (script[: match.end(1)].rstrip("\n").rpartition("\n")[2], match[4] or "") for match in _HEREDOC.finditer(script)
    ]


def commands(script: str) -> list[list[str]]:
    """The commands of a script, as words; without here-documents, comments and assignments in front."""
    script = _HEREDOC.sub("\n", script).replace("\\\n", " ")
    found = []
    for line in script.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in {";", "&&", "||", "|", "&"}:
                while words and _ASSIGNMENT.match(words[0]):
                    words = words[1:]
                if words:
                    found.append(words)
                words = []
            else:
                words.append(word)
    return [_without_redirects(words) for words in found]


def _without_redirects(words: list[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word.strip("<>") == "" or word.lstrip("0123456789&").startswith((">", "<<")):
            skip = True
            if kept and kept[-1].isdigit():  # 2>&1
                kept.pop()
        else:
            kept.append(word)
    return kept
