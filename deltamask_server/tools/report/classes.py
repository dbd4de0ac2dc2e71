"""The report's part on classes: what of each is recognised, and what it is taken for."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from deltamask_server.tools.report.data import Run
from deltamask_server.tools.report.elements import Child, element, table
from deltamask_server.tools.report.wording import NONE, percent

__all__ = ["class_tables"]

_MOST_COLUMNS = 20
"""Classes whose confusion matrix is shown; results.json has it up to 100."""


def class_tables(run: Run) -> list[Element]:
    """Of the model that the run keeps, on the server's test images; nothing where it was not tested."""
    results = run.results
    figures = results.kept.classes if results.kept else None
    if figures is None or results.data is None:
        return []
    names = results.data.classes
    note = (
        f"Of the model that is kept. Balanced accuracy (mean recall) {percent(figures.balanced_accuracy)} %, "
        f"macro F1 {percent(figures.macro_f1)} %. Rows are classes, columns what their images were taken for."
    )
    confusion = figures.confusion or []
    shown = bool(confusion) and len(names) <= _MOST_COLUMNS
    heads = ["class", *(["images"] if confusion else []), "recall, %", *(names if shown else [])]
    rows: list[list[Child]] = []
    for number, name in enumerate(names):
        counts = confusion[number] if confusion else []
        recall = figures.recall[number] if number < len(figures.recall) else None
        rows.append([
            name, *([f"{sum(counts):,}"] if confusion else []), NONE if recall is None else percent(recall),
            *([f"{count:,}" if count else "·" for count in counts] if shown else []),
        ])  # fmt: skip
    return [element("h2", "Classes"), element("p", note, class_="soft"), table(heads, rows, "Classes")]
