"""docs/troubleshooting.md has every message that the project shows its users, and quotes none that nothing says."""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import flwr

from common import errors
from deltamask_server import replies, tally
from tests import markdown
from tests.markdown import ROOT

PAGE = "docs/troubleshooting.md"
FOLDERS = ("common", "deltamask_server", "deltamask_client", "deploy", "docker")
SCRIPTS = ("deploy/tls/keys.sh", "deploy/edge/install.sh", "deploy/edge/uninstall.sh", "docker/register.sh")
RETURNED = ("common/config", "deltamask_server/enrolment.py")  # what functions here return is said to users
SPEAKERS = ["fail", "say", "self.say", "self._say", "_log.warning", "_log.exception", "sys.exit", "SystemExit"]
SPEAKERS += [kind.__name__ for kind in errors.DeltaMaskError.__subclasses__() if kind is not errors.PayloadError]
SAID = dict.fromkeys(SPEAKERS, 0) | {"PydanticCustomError": 1, "failed": 1, "warning": 1}
"""Who says something, and which argument it is; the last two are the doctor's. Of bad payloads users see the reason."""
UNMET = {  # parts of messages that nobody meets, and why
    "theta_local has shape": "a client trains the theta that it was sent, in its shape",
    "no binary fuse filter found": "its keys are positions, of which no two are equal",
    "a Bloom filter of": "it takes hundreds of millions of flips, more than any backbone has",
    "the backbone never calls": "raised while a backbone is tried out, and told as `cannot be split below`",
} | dict.fromkeys(
    ("no such codec; choose one of", "preset = ", "no limit) or above", "density must be in", "use iid, dirichlet or"),
    "the config refuses such values before",
)
OUTSIDE = {"CERTIFICATE_VERIFY_FAILED", "CUDA out of memory", "Expected one of cpu, cuda, ...", "Invalid value for"}
OUTSIDE |= {"Missing argument", "No space left on device", "No such option"}
OUTSIDE |= {"input should be ...", "string should have ..."}
"""Said by the system and by libraries, whose texts are not looked up; those of Flower are."""
HOLE = "\0"  # stands in a message for what is filled in
LEAST, MOST, AROUND = 12, 24, " .,:;()`'"  # characters by which a message is known, and those that do not count


def test_every_message_is_on_the_page() -> None:
    shown = quoted(PAGE)
    needed = [(place, text) for place, text in said() if known_by(text) and not any(part in text for part in UNMET)]
    lacking = [f"{place}: {text}" for place, text in needed if not any(quotes(each, text) for each in shown)]
    reasons = {*replies._ERROR_REASONS.values(), tally.NO_REPLY, tally.LATE, errors.PayloadError.reason}
    missing = "\n".join([*lacking, *sorted(reasons - set(shown))]).replace(HOLE, "...")
    assert not missing, f"{PAGE} lacks in its first columns:\n{missing}"
    assert all(any(part in text for _, text in said()) for part in UNMET)


def test_every_quotation_is_of_something_that_is_said() -> None:
    everything = [*(text for _, text in said()), *anything_said()]
    invented = [q for q in quoted(PAGE) if q not in OUTSIDE and not any(pattern(q).search(text) for text in everything)]
    assert not invented, f"{PAGE} quotes what nothing says:\n" + "\n".join(invented)


def test_a_message_that_is_missing_is_noticed() -> None:
    message = ast.parse("f'{where}: a {kind} {name} is not known' + ('; use .npy' if old else end)", mode="eval").body
    texts = [plain(text) for text in spoken(message, {"kind": ast.Constant("file of floats")})]
    assert texts == ["\0: a file of floats \0 is not known; use .npy", "\0: a file of floats \0 is not known\0"]
    assert [quotes("...: a file of floats ... is not known; use ...", text) for text in texts] == [True, False]
    for wrong in ("is not known ... a file of floats", "a file of floats ... is known", "a file ... is not known", "x"):
        assert not any(quotes(wrong, text) for text in texts)


@functools.cache
def said() -> list[tuple[str, str]]:
    found = []  # where, and what
    for file, tree in sources():
        for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
            values = {ast.unparse(a.targets[0]): a.value for a in ast.walk(function) if isinstance(a, ast.Assign)}
            checks = "validator" in str([ast.unparse(each) for each in function.decorator_list])
            speakers = SAID | {"ValueError": 0} if checks else SAID
            for node in ast.walk(function):
                told = node.value if isinstance(node, ast.Return) and file.startswith(RETURNED) else None
                if isinstance(node, ast.Call) and (who := ast.unparse(node.func)) in speakers:
                    told = next(iter(node.args[speakers[who] :]), None)
                found += [(f"{file}:{node.lineno}", plain(text)) for text in (spoken(told, values) if told else ())]
    for script in SCRIPTS:
        for text in re.findall(r'\b(?:fail|die) "((?:[^"\\]|\\.)*)"', (ROOT / script).read_text(encoding="utf-8")):
            filled = re.sub(r"(?<!\\)\$(\{[^}]*\}|\([^)]*\)?|[\w*]+)", HOLE, text)
            found.append((script, plain(re.sub(r"\\(.)", r"\1", filled))))
    return found


def anything_said() -> Iterator[str]:
    """Texts in the code, in scripts and in Flower."""
    yield from (plain(text) for _, tree in sources() for node in ast.walk(tree) for text in spoken(node, {}))
    for path in (ROOT / "Makefile", *ROOT.glob("d*/**/*.sh"), *Path(flwr.__path__[0]).rglob("*.py")):
        yield " ".join(re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8")).split())


@functools.cache
def sources() -> list[tuple[str, ast.Module]]:
    """The code, without what is written in it for its readers."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    trees = [(str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))) for path in files]
    for node in (node for _, tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
    return trees


def spoken(node: ast.AST, values: Mapping[str, ast.expr]) -> list[str]:
    """The texts that an expression may have; ``values`` are those of names."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return ["".join(each) for each in itertools.product(*(spoken(part, values) for part in parts))]
        case ast.FormattedValue(value=inner):
            return [text if len(text) >= LEAST else HOLE for text in spoken(inner, values)]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return ["".join(each) for each in itertools.product(spoken(left, values), spoken(right, values))]
        case ast.IfExp(body=one, orelse=other):
            return spoken(one, values) + spoken(other, values)
        case ast.Name(id=name) if name in values:
            return spoken(values[name], {key: value for key, value in values.items() if key != name})
    return [HOLE]


def plain(text: str) -> str:
    return " ".join(re.sub(r"%[ds]|\{\w+\}", HOLE, text).split())


def known_by(text: str) -> str:
    """The beginning of the first fixed part that is long enough; nothing, if there is none to know a message by."""
    part = next((part for each in text.split(HOLE) if len(part := each.strip(AROUND)) >= LEAST), "")
    return part if len(part) <= MOST else part[:MOST].rpartition(" ")[0].rstrip(AROUND)


def quoted(page: str) -> list[str]:
    """What stands in code font in the first columns of a page's tables."""
    tokens = markdown.tokens(page)
    rows = zip(tokens, tokens[1:], tokens[2:], strict=False)
    cells = [cell for row, data, cell in rows if (row.type, data.type) == ("tr_open", "td_open")]
    return [child.content for cell in cells for child in cell.children or () if child.type == "code_inline"]


@functools.cache
def pattern(quotation: str) -> re.Pattern[str]:
    return re.compile(".{0,300}?".join(map(re.escape, filter(None, map(str.strip, quotation.split("..."))))), re.DOTALL)


def quotes(quotation: str, text: str) -> bool:
    return known_by(text) in quotation and bool(pattern(quotation).search(text))
