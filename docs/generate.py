"""Write the parts of docs/ that are made from the code: ``python docs/generate.py``, or ``make docs``.

Pages of docs/reference/ are made whole. In pages written by hand, what stands between ``<!-- generated: NAME -->`` and
``<!-- end -->`` is replaced. tests/test_docs.py fails where a page is out of step with the code.
"""

from __future__ import annotations

import html
import inspect
import json
import re
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, get_args, get_origin

import click
import typer
from typer.cli import get_docs_for_click

from common import wire
from common.codecs import available_codecs, get_codec
from common.codecs.fuse_geometry import MAX_SEGMENT_LENGTH, TIGHT_KEYS
from common.config.node import NodeConfig
from common.config.run import all_sections
from common.config.section import Section, kebab
from common.downlink import chain, exact, version
from common.errors import PayloadError
from common.methods import METHODS
from common.methods.fedavg.payload import LARGEST as LARGEST_WEIGHT
from common.models.heads.base import LARGEST as LARGEST_OF_HEAD
from deltamask_server.tools.cli import app
from deltamask_server.tools.outline import presets_table

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

A key matters only where the choice that its section hangs on puts it to use. Set elsewhere, it is refused by name, so
that nobody waits for an effect that cannot come.

{_config_tables()}
"""


def _config_tables() -> str:
    parts = [_section_table(section, "run config") for section in all_sections()]
    return "\n\n".join([*parts, _section_table(NodeConfig, "node config")])


def _section_table(section: type[Section], where: str) -> str:
    rows = []
    for name, field in section.model_fields.items():
        default = "" if field.is_required() else f"`{json.dumps(field.default)}`"
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        allowed = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
        rows.append((f"`{kebab(name)}`", default, f"{field.description}{allowed}"))
    heading = f"## {section.title}" if section.title.lower() != where else "## Node config"
    under = f"In use by the value of `{section.under}`.\n\n" if section.under else ""
    return f"{heading}\n\n{under}{_table(('key', 'default', 'meaning'), rows)}"


def _pyproject(text: str) -> str:
    """pyproject.toml with the run config's defaults in its table."""
    lines = []
    for section in all_sections():
        values = section().model_dump(by_alias=True)
        lines += [f"# {section.title.replace('`', '')}", *(f"{key} = {json.dumps(v)}" for key, v in values.items())]
    return _CONFIG_TABLE.sub(lambda match: f"{match[1]}{chr(10).join(lines)}\n\n{match[2]}", text)


_CONFIG_TABLE = re.compile(r"(\[tool\.flwr\.app\.config\]\n).*?(# -- Packaging)", re.DOTALL)


def _cli_page() -> str:
    command = typer.main.get_command(app)
    with click.Context(command, info_name="deltamask") as context:
        text = get_docs_for_click(obj=command, ctx=context, name="deltamask")
    # typer escapes for web pages, where Markdown needs none.
    return html.unescape(text).replace("# `deltamask`\n", f"# The command `deltamask`\n\n{_USAGE}", 1)


_USAGE = """It comes with the project's environment (`source .venv/bin/activate`);
`python -m deltamask_server.tools.cli` is the same. Exit status: 0, 1 if a file is not what it should be, 2 if the
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


def _methods() -> str:
    rows = [(method.number, f"`{method.name}`", method.summary) for method in METHODS.values()]
    return _table(("number", "method", "what its payloads are of"), sorted(rows))


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
            ("a weight under FedAvg", f"{LARGEST_WEIGHT:,.0f}", "[payload.py](../common/methods/fedavg/payload.py)"),
        ],
    )


_FUSE = "[fuse_geometry.py](../common/codecs/fuse_geometry.py)"

_REGIONS: dict[str, dict[str, Callable[[], str]]] = {
    "wire-format.md": {
        "header": lambda: _fields(wire.FIELDS),
        "methods": _methods,
        "codecs": _codecs,
        "numbers": _numbers,
        "reasons": _reasons,
        "theta-header": lambda: _fields(version.FIELDS),
    },
    "backbones.md": {"presets": presets_table},
}
_WHOLE: dict[str, Callable[[], str]] = {"reference/config.md": _config_page, "reference/cli.md": _cli_page}

_PYPROJECT = "../pyproject.toml"
PAGES = (*_WHOLE, *_REGIONS, _PYPROJECT)
"""Files that are made, or have parts that are, as paths from docs/."""


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
    if page == _PYPROJECT:
        return _pyproject(current(page))
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


if __name__ == "__main__":
    main()
