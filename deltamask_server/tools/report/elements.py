"""HTML and SVG as a tree of elements: escaping and closing tags are the standard library's work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, tostring

__all__ = ["Child", "details", "element", "table", "to_html"]

Child = Element | str | None


def element(tag: str, *children: Child, **attributes: object) -> Element:
    """An element. Texts are escaped, and None is left out; ``class_`` is ``class``, ``a_b`` is ``a-b``."""
    made = Element(tag, {name.rstrip("_").replace("_", "-"): str(value) for name, value in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif child is not None and len(made):
            made[-1].tail = (made[-1].tail or "") + child
        elif child is not None:
            made.text = (made.text or "") + child
    return made


def table(heads: Sequence[str], rows: Iterable[Sequence[Child]], caption: str, *, text_columns: int = 1) -> Element:
    """A table in a box of its own that scrolls. All but the first ``text_columns`` columns are numbers."""

    def cells(tag: str, values: Sequence[Child]) -> list[Element]:
        kinds = [{} if number < text_columns else {"class_": "number"} for number in range(len(values))]
        return [element(tag, value, **kind) for value, kind in zip(values, kinds, strict=True)]

    # A unit stays on the line of its name.
    names = [name.replace(", ", ",\N{NO-BREAK SPACE}") for name in heads]
    head = element("thead", element("tr", *cells("th", names)))
    body = element("tbody", *(element("tr", *cells("td", row)) for row in rows))
    return element(
        "div", element("table", head, body), class_="scroll", role="region", aria_label=caption, tabindex="0"
    )


def details(summary: str, *children: Child) -> Element:
    """Something to unfold."""
    return element("details", element("summary", summary), *children)


def to_html(page: Element) -> bytes:
    """The file of a page."""
    # A class name may hold half a surrogate pair, which no file can.
    text = tostring(page, encoding="unicode", method="html").encode("utf-8", "replace")
    return b"<!DOCTYPE html>\n" + text + b"\n"
