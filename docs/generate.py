"""Write the parts of docs/ that are made from the code: ``python -m docs.generate``, or ``make docs``.

Pages of docs/reference/ are made whole, and so is the picture of docs/architecture.md (`architecture.py`). In pages
written by hand, what stands between ``<!-- generated: NAME -->`` and ``<!-- end -->`` is replaced. tests/test_docs.py
fails where a page or the picture is out of step with the code.
"""

from __future__ import annotations

import html
import inspect
import re
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import click
import typer
from typer.cli import get_docs_for_click

from common import config, wire
from common.codecs import available_codecs, get_codec
from common.codecs.fuse_geometry import MAX_SEGMENT_LENGTH, TIGHT_KEYS
from common.downlink import chain, exact, version
from common.errors import PayloadError
from common.models.heads.base import LARGEST as LARGEST_OF_HEAD
from common.models.outline import presets_table
from common.weights_payload import LARGEST as LARGEST_WEIGHT
from deltamask_server.cli import app
from docs import architecture

__all__ = ["PAGES", "current", "made", "main"]

DOCS = Path(__file__).parent
_REGION = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
_WARNING = "<!-- Made from the code by docs/generate.py (`make docs`): changes here are overwritten. -->\n"


def _table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    titles = list(columns)
    lines = ["| " + " | ".join(map(str, line)) + " |" for line in (titles, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(titles), *lines[1:]])


# -- Pages of docs/reference/ ------------------------------------------------------------------------------------------


def _config_page() -> str:
    return f"""# Configuration

Defaults stand in [pyproject.toml](../../pyproject.toml), under `[tool.flwr.app.config]`. Override keys with
`-c "key=value"`, or all at once with `--run-config FILE` ([conf/](../../conf) has some); a SuperNode's own go into
`--node-config`. Values are TOML: a text needs quotes of its own inside those of the shell, `-c "codec='exact'"`. Flower
refuses a key that it does not know, and we a value that is not allowed, by its name.

{config.reference()}
"""


def _cli_page() -> str:
    command = typer.main.get_command(app)
    with click.Context(command, info_name="deltamask") as context:
        text = get_docs_for_click(obj=command, ctx=context, name="deltamask")
    # typer escapes for web pages, where Markdown needs none.
    return html.unescape(text).replace("# `deltamask`\n", f"# The command `deltamask`\n\n{_USAGE}", 1)


_USAGE = """It comes with the project's environment (`source .venv/bin/activate`);
`python -m deltamask_server.cli` is the same. Exit status: 0, 1 if a file is not what it should be, 2 if the
command makes no sense.
"""


# -- Parts of pages written by hand ------------------------------------------------------------------------------------


def _fields(fields: Iterable[wire.Field]) -> str:
    rows, offset = [], 0
    for field in fields:
        size = struct.calcsize(f"<{field.code}")
        rows.append((offset, size, field.name, field.rule))
        offset += size
    return _table(("offset", "size", "field", "rule"), rows)


def _codecs() -> str:
    rows = []
    for codec in sorted(map(get_codec, available_codecs()), key=lambda one: one.number):
        file = Path(inspect.getfile(type(codec))).name
        versions = " and ".join(str(number) for number in wire.VERSIONS if number <= codec.newest_version)
        rows.append((codec.number, f"`{codec.name}`", codec.counts, versions, f"[{file}](../common/codecs/{file})"))
    return _table(("number", "codec", "n counts", "versions", "code"), rows)


def _reasons() -> str:
    errors = [error for error in PayloadError.__subclasses__() if error.__module__ == PayloadError.__module__]
    return _table(
        ("reason", "what is wrong"),
        [(f"`{error.reason}`", (error.__doc__ or "").removesuffix(".")) for error in errors],
    )


def _numbers() -> str:
    most, more = wire.max_payload_bytes(0), wire.max_payload_bytes(1) - wire.max_payload_bytes(0)
    return _table(
        ("number", "value", "code"),
        [
            ("header", f"{wire.HEADER_BYTES} bytes", "[wire.py](../common/wire.py)"),
            ("largest payload", f"{most:,} + {more} d bytes", "[wire.py](../common/wire.py)"),
            ("keys from which filters have version 2", f"{TIGHT_KEYS:,}", _FUSE),
            ("largest segment of a filter", f"{MAX_SEGMENT_LENGTH:,} fingerprints", _FUSE),
            ("versions of theta in a message", f"{chain.MAX_STEPS}", "[chain.py](../common/downlink/chain.py)"),
            ("slots in a version", f"{exact.MAX_CLIENTS:,}", "[exact.py](../common/downlink/exact.py)"),
            ("a value of a head", f"{LARGEST_OF_HEAD:,.0f}", "[base.py](../common/models/heads/base.py)"),
            ("a weight under FedAvg", f"{LARGEST_WEIGHT:,.0f}", "[weights_payload.py](../common/weights_payload.py)"),
        ],
    )


_FUSE = "[fuse_geometry.py](../common/codecs/fuse_geometry.py)"

_REGIONS: dict[str, dict[str, Callable[[], str]]] = {
    "wire-format.md": {
        "header": lambda: _fields(wire.FIELDS),
        "codecs": _codecs,
        "numbers": _numbers,
        "reasons": _reasons,
        "theta-header": lambda: _fields(version.FIELDS),
    },
    "backbones.md": {"presets": presets_table},
}
_WHOLE: dict[str, Callable[[], str]] = {"reference/config.md": _config_page, "reference/cli.md": _cli_page}

PAGES = (*_WHOLE, *_REGIONS)
"""Pages that are made, or have parts that are, as paths below docs/."""


def current(page: str) -> str:
    """A page as it stands; empty if it does not."""
    file = DOCS / page
    return file.read_text(encoding="utf-8") if file.exists() else ""


def made(page: str) -> str:
    """A page as the code wants it.

    Raises
    ------
    ValueError
        If a page lacks the place for a part, or has one for a part that there is not.
    """
    if page in _WHOLE:
        return _WARNING + "\n" + _WHOLE[page]().rstrip() + "\n"
    parts, text = _REGIONS[page], current(page)
    if (found := [match[2] for match in _REGION.finditer(text)]) != (wanted := list(parts)):
        raise ValueError(f"docs/{page} has places for {found}, in this order, and the parts are {wanted}")
    return _REGION.sub(lambda match: f"{match[1]}\n{parts[match[2]]()}\n\n{match[3]}", text)


def main() -> None:
    """Write all pages that differ, and name them."""
    for page in PAGES:
        if (text := made(page)) != current(page):
            (DOCS / page).write_text(text, encoding="utf-8")
            print(f"wrote docs/{page}")
    architecture.main()


if __name__ == "__main__":
    main()
