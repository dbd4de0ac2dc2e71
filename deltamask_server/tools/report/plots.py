"""The charts of a report, each with its numbers to unfold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from xml.etree.ElementTree import Element

from deltamask_server.console import head_name
from deltamask_server.tools.report.charts import Axis, Series, Stack, column_chart, line_chart
from deltamask_server.tools.report.data import Round, Run
from deltamask_server.tools.report.elements import details, element, table
from deltamask_server.tools.report.figures import client_figures, traffic_after_rounds
from deltamask_server.tools.report.wording import amount, duration, method_of_run, percent

__all__ = ["form_names", "plots"]

_BYTES = (("GB", 1e9, 1e9), ("MB", 1e6, 1e6), ("kB", 1e3, 1e3), ("bytes", 1.0, 0.0))
_SECONDS = (("hours", 3600.0, 10_800.0), ("minutes", 60.0, 180.0), ("seconds", 1.0, 0.0))
"""Units: name, size, and from what height on a chart is drawn in it."""
_PHASES = {
    "configure": "make the messages",
    "train": "wait for clients",
    "aggregate": "decode and fold",
    "evaluate": "test",
    "validate": "clients' held-out images",
}


def plots(run: Run) -> list[Element]:
    """Accuracy by round and by traffic, bytes by client in both directions, time by phase; those that there is
    something to show for.
    """
    drawn = []
    if form_names(run):
        drawn += [_accuracy_by_round(run), _accuracy_by_traffic(run)]
    if client_figures(run):
        drawn += _bytes_by_client(run)
    if run.results.rounds:
        drawn.append(_time_by_phase(run))
    return drawn


def form_names(run: Run) -> dict[str, str]:
    """What the forms of the global model are called, of those that this run has tested, the one to use first."""
    tested = [entry.accuracy for entry in run.results.rounds if entry.accuracy]
    found = {form for accuracies in tested for form, accuracy in accuracies.items() if accuracy is not None}
    method = method_of_run(run.results.config)
    names = {} if method is None else method.forms
    return {form: names.get(form, form) for form in [*names, *sorted(found - names.keys())] if form in found}


def _accuracy_by_round(run: Run) -> Element:
    rounds, names = run.results.rounds, form_names(run)
    lines = []
    for tone, (form, name) in enumerate(names.items(), 1):
        before = _start(run) if form == "mean" else []
        lines.append(Series(name, tone, before + _accuracies(rounds, form)))
    held_out = _points(rounds, lambda entry: entry.validation.mean if entry.validation else None)
    own = _points(rounds, lambda entry: entry.personal.mean if entry.personal else None)
    lines += [Series("clients' held-out images", 4, held_out)] if held_out else []
    lines += [Series("clients' own models", 5, own)] if own else []
    head = head_name({"config": run.results.config})
    return _figure(
        "Accuracy by round",
        f"On the test images, in %; round 0 is the {head} on the frozen network."
        + (" Clients' accuracies are means over clients." if len(lines) > len(names) else ""),
        line_chart("Line chart of accuracy by round", Axis("round", whole=True), Axis("accuracy, %"), lines),
        ("round", *(line.name for line in lines)),
        _rows(lines, lambda x: f"{x:.0f}"),
    )


def _accuracy_by_traffic(run: Run) -> Element:
    form, name = next(iter(form_names(run).items()))
    after = [size / 1e6 for size in traffic_after_rounds(run)]
    sent = dict(zip([0, *(entry.number for entry in run.results.rounds)], after, strict=True))
    points = _start(run) + _accuracies(run.results.rounds, form)
    lines = [Series(name, 1, [(sent[int(number)], accuracy) for number, accuracy in points])]
    return _figure(
        "Accuracy by traffic",
        f"The {name}, against the MB sent so far: both ways, all clients, head included.",
        line_chart("Line chart of accuracy by megabytes sent", Axis("MB"), Axis("accuracy, %"), lines),
        ("MB", name),
        _rows(lines, lambda x: f"{x:,.3f}"),
    )


def _bytes_by_client(run: Run) -> list[Element]:
    clients = client_figures(run)
    names = [str(each.client) for each in clients]
    return [
        _bytes(
            "Bytes that each client sent",
            "Payloads as they came, headers included, over the whole run.",
            names,
            Stack("head round", 5, [each.head for each in clients]),
            Stack("rounds", 1, [each.up for each in clients]),
        ),
        _bytes(
            "Bytes that each client was sent",
            "Global model, head and class list; the first message brings the whole model.",
            names,
            Stack("first message", 5, [each.first_down for each in clients]),
            Stack("later messages", 2, [each.later_down for each in clients]),
        ),
    ]


def _bytes(title: str, note: str, clients: Sequence[str], *stacks: Stack) -> Element:
    unit, factor = _unit(stacks, _BYTES)
    rows = [[name, *(f"{stack.values[n]:,}" for stack in stacks)] for n, name in enumerate(clients)]
    label = f"Column chart: {title.lower()}"
    return _figure(
        title,
        note,
        column_chart(label, Axis("client"), Axis(unit), clients, _scaled(stacks, factor), lambda v: amount(v * factor)),
        ("client", *(f"{stack.name}, bytes" for stack in stacks)),
        rows,
    )


def _time_by_phase(run: Run) -> Element:
    results = run.results
    columns = [*(["head"] if results.head else []), *(str(entry.number) for entry in results.rounds)]
    head = [results.head.seconds] if results.head else []
    stacks = [Stack("head round", 5, [*head, *(0.0 for _ in results.rounds)])]
    for tone, (phase, name) in zip((4, 1, 2, 3, 6), _PHASES.items(), strict=True):
        stacks.append(Stack(name, tone, [*(0.0 for _ in head), *(_phase(entry, phase) for entry in results.rounds)]))
    unit, factor = _unit(stacks, _SECONDS)
    label = "Column chart of time by round and phase"
    axes = Axis("round"), Axis(unit)
    chart = column_chart(label, *axes, columns, _scaled(stacks, factor), lambda v: duration(v * factor))
    rows = [[name, *(f"{stack.values[n]:,.3f}" for stack in stacks)] for n, name in enumerate(columns)]
    return _figure(
        "Time by phase",
        "Wall time at the server. Replies are decoded and folded while others still train.",
        chart,
        ("round", *(f"{stack.name}, s" for stack in stacks)),
        rows,
    )


def _unit(stacks: Sequence[Stack], units: Sequence[tuple[str, float, float]]) -> tuple[str, float]:
    """Name and size of the unit for the highest column: the first of which it has enough."""
    highest = max(sum(values) for values in zip(*(stack.values for stack in stacks), strict=True))
    return next(((name, size) for name, size, enough in units if highest >= enough), units[-1][:2])


def _scaled(stacks: Sequence[Stack], unit: float) -> list[Stack]:
    return [Stack(stack.name, stack.tone, [value / unit for value in stack.values]) for stack in stacks]


def _phase(entry: Round, phase: str) -> float:
    """Seconds; the wait for clients without the work that was done meanwhile."""
    seconds = entry.seconds.get(phase, 0.0)
    return max(0.0, seconds - entry.seconds.get("aggregate", 0.0)) if phase == "train" else seconds


def _start(run: Run) -> list[tuple[float, float]]:
    """The head's accuracy as round 0."""
    head = run.results.head
    return [] if head is None or head.accuracy is None else [(0.0, 100 * head.accuracy)]


def _accuracies(rounds: Sequence[Round], form: str) -> list[tuple[float, float]]:
    """Of one form of the global model."""
    return _points(rounds, lambda entry: (entry.accuracy or {}).get(form))


def _points(rounds: Sequence[Round], read: Callable[[Round], float | None]) -> list[tuple[float, float]]:
    """Round and per cent, where there is a figure."""
    found = ((entry.number, read(entry)) for entry in rounds)
    return [(float(number), 100 * value) for number, value in found if value is not None]


def _rows(lines: Sequence[Series], say: Callable[[float], str]) -> list[list[str]]:
    by_x = [dict(line.points) for line in lines]
    return [
        [say(x), *(percent(None if (y := points.get(x)) is None else y / 100) for points in by_x)]
        for x in sorted({x for points in by_x for x in points})
    ]


def _figure(title: str, note: str, chart: Element, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Element:
    caption = element("figcaption", element("h3", title), element("p", note))
    return element("figure", caption, chart, details("The numbers", table(heads, rows, title)))
