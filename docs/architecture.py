"""Draw who imports whom: ``python -m docs.architecture``, or ``make docs``, writes docs/images/architecture.svg.

A room is a folder directly below a package, with everything in it; the package's own files are a room too. An arrow
runs from the room that imports to the one that is imported; its number counts import statements, read from the syntax
trees. Nothing is imported to find out. tests/test_docs.py fails where the picture lacks a room or an arrow.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve

__all__ = ["PICTURE", "Imports", "described", "draw", "imports", "main", "rooms"]

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
BELOW, *ABOVE = PACKAGES = ("common", "deltamask_client", "deltamask_server")

Imports = Counter[tuple[str, str]]
"""Import statements by room that imports and room that is imported."""

_ORDER = ("deltamask_server/methods", "deltamask_server", "deltamask_server/tools")
_ORDER += ("common/methods", "common/aggregation", "common/downlink", "common/codecs", "common/models", "common/data")
"""From left to right; rooms that are not named follow in the order of the alphabet."""
_COLOURS = ("#1f5fa8", "#2a9d8f", "#b5541c", "#8c2f5a", "#6b6f76", "#8a7a1f")
"""Of the rooms above, from left to right, and of their arrows."""
_INK, _PAPER = "#22262b", "white"
_WIDE, _HIGH, _GAP = 9.0, 6.42, 0.26
_FLOORS = {"above": (4.52, 1.3), "below": (1.62, 1.12), "ground": (0.22, 0.56)}
"""Lower edge and height of the boxes, in inches."""


# -- What there is -----------------------------------------------------------------------------------------------------


def rooms(root: Path) -> dict[str, tuple[str, ...]]:
    """Rooms by name (``common``, ``common/codecs``), with the names of what is in them: folders, or else files."""
    found: dict[str, tuple[str, ...]] = {}
    for package in PACKAGES:
        folders = [path for path in sorted((root / package).iterdir()) if path.is_dir() and any(path.rglob("*.py"))]
        for folder in [root / package, *folders]:
            inside = [path.parent.name for path in sorted(folder.glob("*/*.py"))] if folder.parent != root else []
            files = [path.stem for path in sorted(folder.glob("*.py")) if not path.stem.startswith("__")]
            found[str(folder.relative_to(root))] = tuple(dict.fromkeys([*inside, *files]))
    return found


def imports(root: Path) -> Imports:
    """Import statements from one room to another, those within functions too."""
    found: Imports = Counter()
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            here = _room(root, str(file.relative_to(root).with_suffix("")).replace("/", "."))
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                there = {_room(root, name) for name in _names(node)} - {None, here}
                found.update((str(here), str(room)) for room in there)
    return found


def _names(node: ast.AST) -> Iterable[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def _room(root: Path, module: str) -> str | None:
    package, *inside = module.split(".")
    if package not in PACKAGES:
        return None
    return f"{package}/{inside[0]}" if inside and (root / package / inside[0]).is_dir() else package


# -- The picture -------------------------------------------------------------------------------------------------------


class Box(NamedTuple):
    """Where a room is drawn, in inches."""

    left: float
    bottom: float
    width: float
    height: float

    @property
    def top(self) -> float:
        """Its upper edge."""
        return self.bottom + self.height

    @property
    def right(self) -> float:
        """Its right edge."""
        return self.left + self.width

    @property
    def middle(self) -> float:
        """Half-way between left and right."""
        return self.left + self.width / 2


def draw(root: Path = ROOT, file: Path = PICTURE) -> None:
    """Write the picture of the packages below ``root``; equal imports give equal bytes on one machine."""
    holds, counts = rooms(root), imports(root)
    with matplotlib.rc_context({"svg.hashsalt": "architecture", "font.family": "DejaVu Sans", "svg.fonttype": "path"}):
        figure = Figure(figsize=(_WIDE, _HIGH), facecolor=_PAPER)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, _WIDE), ylim=(0, _HIGH))
        axes.axis("off")
        places = _places(holds)
        upper = [room for room in places if _package(room) != BELOW]
        colours = {room: _COLOURS[number % len(_COLOURS)] for number, room in enumerate(upper)}
        _floors(axes, places)
        _between_floors(axes, counts, places, colours)
        _within_floors(axes, counts, places, colours)
        for room, box in places.items():
            _label(axes, room, holds[room], box, colours.get(room, _INK))
        metadata = {"Date": None, "Title": "Who imports whom", "Description": "; ".join(_arrows(counts))}
        figure.savefig(file, metadata=metadata if file.suffix == ".svg" else None)


def described(file: Path = PICTURE) -> set[str]:
    """The arrows of a picture, as its description names them."""
    found = re.search(r"<dc:description>(.*?)</dc:description>", file.read_text(encoding="utf-8"), re.DOTALL)
    return set(found[1].replace("&gt;", ">").split("; ")) if found else set()


def _arrows(counts: Imports) -> list[str]:
    return [f"{one} -> {other}" for one, other in sorted(counts)]


def _package(room: str) -> str:
    return room.partition("/")[0]


def _places(holds: Iterable[str]) -> dict[str, Box]:
    """Client and server above, side by side; the rooms of ``common`` below, and its own files as the ground."""
    order = {room: number for number, room in enumerate(_ORDER)}
    by_place = sorted(holds, key=lambda room: (PACKAGES.index(_package(room)), order.get(room, len(order)), room))
    places = {BELOW: Box(_GAP, _FLOORS["ground"][0], _WIDE - 2 * _GAP, _FLOORS["ground"][1])}
    places |= _row([[room for room in by_place if _package(room) == BELOW and room != BELOW]], *_FLOORS["below"])
    return places | _row([[r for r in by_place if _package(r) == package] for package in ABOVE], *_FLOORS["above"])


def _row(groups: Sequence[Sequence[str]], bottom: float, height: float) -> dict[str, Box]:
    """Boxes side by side, with one gap between rooms and two more between groups."""
    count, between = sum(map(len, groups)), 3.2 if len(groups) > 1 else 1
    wide = 1.9 if len(groups) > 1 else 1  # arrows between neighbours need room for their number
    gaps = 2 + wide * (count - len(groups)) + between * (len(groups) - 1)
    width = (_WIDE - gaps * _GAP) / count
    places, left = {}, _GAP
    for group in groups:
        for room in group:
            places[room] = Box(left, bottom, width, height)
            left += width + wide * _GAP
        left += (between - wide) * _GAP
    return places


def _floors(axes: Axes, places: dict[str, Box]) -> None:
    for package in PACKAGES:
        boxes = [box for room, box in places.items() if _package(room) == package]
        left, right = min(box.left for box in boxes) - 0.13, max(box.right for box in boxes) + 0.13
        right = max(right, left + 0.24 + 0.1 * len(package))  # its name fits
        bottom, top = (
            min(box.bottom for box in boxes) - 0.13,
            max(box.top for box in boxes) + (0.13 if package == BELOW else 0.48),
        )
        style = "round,pad=0,rounding_size=0.08"
        place = {"facecolor": "#f1f3f5", "edgecolor": "none", "zorder": 0}
        axes.add_patch(FancyBboxPatch((left, bottom), right - left, top - bottom, boxstyle=style, **place))
        if package != BELOW:
            axes.text(left + 0.12, top - 0.18, f"{package}/", fontsize=11, weight="bold", color=_INK, va="center")


def _label(axes: Axes, room: str, holds: Sequence[str], box: Box, colour: str) -> None:
    style = "round,pad=0,rounding_size=0.05"
    place = {"facecolor": _PAPER, "edgecolor": colour, "linewidth": 1.4, "zorder": 5}
    axes.add_patch(FancyBboxPatch((box.left, box.bottom), box.width, box.height, boxstyle=style, **place))
    title = room.partition("/")[2] + "/" if "/" in room else f"{room}/" if room == BELOW else "own files"
    size = min(10.0, 96 * box.width / len(title))
    axes.text(box.left + 0.07, box.top - 0.16, title, fontsize=size, weight="bold", color=colour, va="center", zorder=6)
    lines = textwrap.wrap(", ".join(holds), int((box.width - 0.1) / 0.063), break_long_words=False)
    fit = int((box.height - 0.3) / 0.132)
    if len(lines) > fit:
        lines = [*lines[: fit - 1], lines[fit - 1].rstrip(",")[: int((box.width - 0.1) / 0.063) - 2] + " …"]
    axes.text(
        box.left + 0.07, box.top - 0.28, "\n".join(lines), fontsize=7.2, color=_INK, va="top", zorder=6, linespacing=1.3
    )


def _between_floors(axes: Axes, counts: Imports, places: dict[str, Box], colours: dict[str, str]) -> None:
    """From each room above to those below: it leaves at the lower edge and comes in at the upper one."""
    pairs = [pair for pair in sorted(counts) if _package(pair[0]) != BELOW and _package(pair[1]) == BELOW]
    ground = _through_the_gaps([places[one] for one, other in pairs if other == BELOW], places)
    roof = max(box.top for room, box in places.items() if _package(room) == BELOW)
    for pair in pairs:
        one, other = places[pair[0]], places[pair[1]]
        goals = sorted(
            (p for p in pairs if p[0] == pair[0]), key=lambda p: ground[one] if p[1] == BELOW else places[p[1]].left
        )
        leaves = _port(one, goals.index(pair), len(goals))
        comers = sorted((p for p in pairs if p[1] == pair[1]), key=lambda p: places[p[0]].left)
        comes = ground[one] if pair[1] == BELOW else _port(other, comers.index(pair), len(comers))
        bend = (one.bottom - roof) / 2
        points = [(leaves, one.bottom), (leaves, one.bottom - bend), (comes, roof + 0.32 + bend), (comes, roof + 0.32)]
        codes = [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4, Curve.LINETO]
        _arrow(axes, Curve([*points, (comes, other.top + 0.02)], codes), colours[pair[0]], counts[pair])
        _number(axes, comes, other.top + 0.24, counts[pair], colours[pair[0]])


def _through_the_gaps(above: Sequence[Box], places: dict[str, Box]) -> dict[Box, float]:
    """Where the arrows of some boxes pass between the rooms of ``common``, down to its own files: the nearest gap that
    no other one takes, or beside another one.
    """
    edges = sorted({box.right + _GAP / 2 for room, box in places.items() if _package(room) == BELOW != room})
    gaps = edges[:-1] or edges
    taken: Counter[float] = Counter()
    found = {}
    for box in sorted(above):
        gap = min(gaps, key=lambda gap: (taken[gap], abs(gap - box.middle)))
        found[box] = gap + (0.0, 0.09, -0.09)[taken[gap] % 3]
        taken[gap] += 1
    return found


def _within_floors(axes: Axes, counts: Imports, places: dict[str, Box], colours: dict[str, str]) -> None:
    """Neighbours above: straight across. Rooms of ``common``: straight down to the ground, or round below."""
    pairs = [pair for pair in sorted(counts) if _package(pair[0]) == _package(pair[1])]
    around = [pair for pair in pairs if _package(pair[0]) == BELOW and BELOW not in pair]
    for one, other in pairs:
        colour, count = colours.get(one, _INK), counts[one, other]
        if BELOW in (one, other):
            _to_the_ground(axes, (one, other), places, count)
        elif (one, other) in around:
            _around(axes, (one, other), around, places, count)
        else:
            _across(axes, places[one], places[other], colour, count)


def _to_the_ground(axes: Axes, pair: tuple[str, str], places: dict[str, Box], count: int) -> None:
    """Between a room of ``common`` and its own files: straight down, or up."""
    down = pair[1] == BELOW
    room, ground = places[pair[0] if down else pair[1]], places[BELOW]
    x = room.left + room.width * (0.24 if down else 0.06)
    tail, head = (room.bottom, ground.top + 0.02) if down else (ground.top, room.bottom - 0.02)
    _arrow(axes, Curve([(x, tail), (x, head)]), _INK, count)
    _number(axes, x, ground.top + 0.2, count, _INK)


def _around(
    axes: Axes, pair: tuple[str, str], around: Sequence[tuple[str, str]], places: dict[str, Box], count: int
) -> None:
    """Down, along and up again, each at a depth of its own."""
    ends = []
    for room in pair:
        there = [p for p in around if room in p]
        there.sort(key=lambda p: (places[p[0] if p[1] == room else p[1]].left, p))
        box = places[room]
        ends.append(box.left + box.width * (0.3 + 0.62 * there.index(pair) / max(1, len(there) - 1)))
    start, end = ends
    bottom = places[pair[0]].bottom
    low = bottom - 0.1 - 0.4 * around.index(pair) / max(1, len(around) - 1)
    _arrow(axes, Curve([(start, bottom), (start, low), (end, low), (end, bottom - 0.02)]), _INK, count)
    _number(axes, (start + end) / 2, low, count, _INK)


def _across(axes: Axes, one: Box, other: Box, colour: str, count: int) -> None:
    """Side by side, or over what stands between them."""
    first, second = sorted((one, other), key=lambda box: box.left)
    if second.left - first.right < 3 * _GAP:
        y = one.bottom + one.height * (0.62 if one is first else 0.38)
        tail, head = (one.right, other.left - 0.02) if one is first else (one.left, other.right + 0.02)
        _arrow(axes, Curve([(tail, y), (head, y)]), colour, count)
        _number(axes, (tail + head) / 2, y + 0.13, count, colour)
    else:
        over = one.top + 0.12
        path = [(one.middle, one.top), (one.middle, over), (other.middle, over), (other.middle, other.top + 0.02)]
        _arrow(axes, Curve(path), colour, count)
        _number(axes, (one.middle + other.middle) / 2, over, count, colour)


def _port(box: Box, number: int, of: int) -> float:
    """Where along a box's edge one of several arrows is."""
    return box.left + box.width * (number + 1) / (of + 1)


def _arrow(axes: Axes, path: Curve, colour: str, count: int) -> None:
    width = 0.7 + 0.32 * count**0.5
    style = {"arrowstyle": "-|>,head_length=3.2,head_width=1.7", "color": colour, "linewidth": width}
    axes.add_patch(FancyArrowPatch(path=path, zorder=3, shrinkA=0, shrinkB=0, joinstyle="round", **style))


def _number(axes: Axes, x: float, y: float, count: int, colour: str) -> None:
    box = {"boxstyle": "round,pad=0.12", "facecolor": _PAPER, "edgecolor": "none", "alpha": 0.85}
    axes.text(x, y, str(count), fontsize=6.8, color=colour, ha="center", va="center", zorder=4, bbox=box)


def main() -> None:
    """Write the picture where it differs, and name it."""
    before = PICTURE.read_bytes() if PICTURE.exists() else b""
    draw()
    if PICTURE.read_bytes() != before:
        print(f"wrote {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
