"""Line and column charts as inline SVG; their colours are variables of the page's style, of light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from deltamask_server.tools.report.elements import element

__all__ = ["Axis", "Series", "Stack", "column_chart", "line_chart", "ticks"]

_WIDTH, _HEIGHT = 440, 248
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 428, 22, 210
_MOST_TICKS, _MOST_LABELS, _MOST_DOTS, _MOST_GAPS = 6, 10, 60, 40


@dataclass(frozen=True)
class Axis:
    """An axis: its name with the unit, and whether only whole numbers make sense on it."""

    name: str
    whole: bool = False


@dataclass(frozen=True)
class Series:
    """A line. ``tone`` 1 to 6 is its colour, ``points`` are in order of x."""

    name: str
    tone: int
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Stack:
    """One layer of columns, from the bottom up: a value for each column."""

    name: str
    tone: int
    values: Sequence[float]


def line_chart(label: str, x: Axis, y: Axis, lines: Sequence[Series]) -> Element:
    """Lines with a dot at each point, which says its numbers where the pointer rests.

    Parameters
    ----------
    label
        What is drawn, for those who do not see it.
    x, y
        The axes.
    lines
        At least one point in all.
    """
    points = [point for line in lines for point in line.points]
    xs = ticks(min(p[0] for p in points), max(p[0] for p in points), x.whole)
    ys = ticks(min(p[1] for p in points), max(p[1] for p in points), y.whole)
    across, up = _scale(xs[0], xs[-1], _LEFT, _RIGHT), _scale(ys[0], ys[-1], _BOTTOM, _TOP)
    drawn = _frame(label, x, y)
    _y_ticks(drawn, ys, up)
    for value, text in zip(xs, _tick_labels(xs), strict=True):
        drawn.append(_text(text, across(value), _BOTTOM + 15, "middle"))
    for line in lines:
        at = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in line.points)
        group = element("g", element("polyline", points=at, class_="line"), class_=f"tone{line.tone}")
        if len(line.points) <= _MOST_DOTS:
            for a, b in line.points:
                place = {"cx": f"{across(a):.1f}", "cy": f"{up(b):.1f}"}
                says = element("title", f"{line.name}: {b:,.4g} at {a:,.4g}")
                group.append(element("circle", r=2.8, class_="dot", **place))
                group.append(element("circle", says, r=8, class_="hit", **place))
        drawn.append(group)
    return element("div", _legend([(line.name, line.tone) for line in lines], "line"), drawn, class_="chart")


def column_chart(
    label: str, x: Axis, y: Axis, columns: Sequence[str], stacks: Sequence[Stack], say: Callable[[float], str]
) -> Element:
    """Stacked columns from 0 up.

    Parameters
    ----------
    label
        What is drawn, for those who do not see it.
    x, y
        The axes.
    columns
        Name of each, at least one.
    stacks
        Layers, values in the axis' unit.
    say
        A value for a person to read.
    """
    heights = [sum(stack.values[number] for stack in stacks) for number in range(len(columns))]
    ys = ticks(0.0, max(heights), y.whole)
    up = _scale(ys[0], ys[-1], _BOTTOM, _TOP)
    step = (_RIGHT - _LEFT) / len(columns)
    width = min(step if len(columns) > _MOST_GAPS else 0.72 * step, 48)
    drawn = _frame(label, x, y)
    _y_ticks(drawn, ys, up)
    every = math.ceil(_round_up(len(columns) / _MOST_LABELS))
    for number, name in enumerate(columns):
        left = _LEFT + step * (number + 0.5) - width / 2
        if number % every == 0:
            drawn.append(_text(name, left + width / 2, _BOTTOM + 15, "middle"))
        below = 0.0
        for stack in stacks:
            value = stack.values[number]
            if value <= 0:
                continue
            box = {"x": f"{left:.2f}", "y": f"{up(below + value):.2f}", "width": f"{width:.2f}"}
            height = f"{up(below) - up(below + value):.2f}"
            says = element("title", f"{x.name} {name}, {stack.name}: {say(value)}")
            drawn.append(element("rect", says, height=height, class_=f"column tone{stack.tone}", **box))
            below += value
    shown = [(stack.name, stack.tone) for stack in stacks if any(stack.values)]
    return element("div", _legend(shown, "column"), drawn, class_="chart")


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Round numbers, one, two or five times a power of ten apart, from below ``low`` to above ``high``; at least two,
    and at most seven or so.
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        pad = 1.0 if whole or low == 0 else 0.05 * abs(low)
        low, high = (low, low + pad) if low == 0 else (low - pad, high + pad)
    step = _round_up((high - low) / _MOST_TICKS)
    step = max(step, 1.0) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _round_up(value: float) -> float:
    """The next of one, two and five times a power of ten."""
    size = 10.0 ** math.floor(math.log10(value))
    return next((size * by for by in (1, 2, 5) if size * by >= value * (1 - 1e-9)), 10 * size)


def _tick_labels(values: Sequence[float]) -> list[str]:
    places = max(0, -math.floor(math.log10(values[1] - values[0]) + 1e-9))
    return [f"{value:,.{places}f}" for value in values]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (end - start) * (value - low) / (high - low)


def _frame(label: str, x: Axis, y: Axis) -> Element:
    drawn = element("svg", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=label)
    drawn.append(_text(y.name, 2, 10, "start", "axis"))
    drawn.append(_text(x.name, (_LEFT + _RIGHT) / 2, _HEIGHT - 6, "middle", "axis"))
    return drawn


def _y_ticks(drawn: Element, values: Sequence[float], up: Callable[[float], float]) -> None:
    for value, text in zip(values, _tick_labels(values), strict=True):
        height = f"{up(value):.1f}"
        kind = "base" if value == values[0] else "grid"
        drawn.append(element("line", x1=_LEFT, x2=_RIGHT, y1=height, y2=height, class_=kind))
        drawn.append(_text(text, _LEFT - 6, up(value) + 4, "end"))


def _text(text: str, x: float, y: float, anchor: str, kind: str = "tick") -> Element:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=kind)


def _legend(entries: Sequence[tuple[str, int]], kind: str) -> Element | None:
    """What the colours mean; one line that the title has named needs none."""
    if len(entries) < 2:
        return None
    items = (
        element("li", element("span", class_=f"key {kind}-key tone{tone}"), element("span", name))
        for name, tone in entries
    )
    return element("ul", *items, class_="legend")
