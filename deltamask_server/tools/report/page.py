"""The report's page: what a run was, what came out, what it cost, and how to make it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from xml.etree.ElementTree import Element

from deltamask_server.console import head_name, outcome
from deltamask_server.tools.report.classes import class_tables
from deltamask_server.tools.report.data import Run
from deltamask_server.tools.report.elements import Child, element, table
from deltamask_server.tools.report.figures import client_figures, round_seconds, totals
from deltamask_server.tools.report.picture import draw
from deltamask_server.tools.report.plots import form_names, plots
from deltamask_server.tools.report.settings import commands, settings
from deltamask_server.tools.report.style import STYLE
from deltamask_server.tools.report.wording import (
    NONE,
    amount,
    coding,
    duration,
    method_name,
    percent,
    reasons,
    times_less,
)

__all__ = ["page"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The browser itself refuses whatever is not in the file."""

_AROUND = 18_600
"""Bytes that Flower, gRPC and TLS put around one message and its reply, both ways (`benchmarks.socket_bytes`)."""


def page(run: Run) -> Element:
    """The whole page; nothing in it comes from elsewhere, and no script is in it."""
    config = run.results.config
    title = f"{method_name(config)} on {config.get('dataset', '?')}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{title} · {run.name}"),
        element("style", STYLE),
    )
    drawn = plots(run) + _payload(run)
    body = element(
        "main",
        _heading(run, title),
        _key_figures(run),
        element("h2", "How it went"),
        element("div", *drawn, class_="figures")
        if drawn
        else element("p", "No client has been asked yet.", class_="soft"),
        *_rounds(run),
        *class_tables(run),
        *_clients(run),
        *settings(run),
        *commands(run),
        _footer(run),
    )
    return element("html", head, element("body", body), lang="en")


def _heading(run: Run, title: str) -> Element:
    results, config = run.results, run.results.config
    done, planned = len(results.rounds), config.get("num-server-rounds", "?")
    status = element("span", results.status, class_=f"status {results.status}")
    line = element("p", "Run ", element("code", run.name), ": ", status, f", {done} of {planned} rounds")
    facts: dict[str, Child] = {"Method": f"{method_name(config)}; on the wire: {coding(config)}"}
    if results.model:
        model = results.model
        kept = "" if model.kept_parameters is None else f", of which pruning has kept {model.kept_parameters:,}"
        facts["Backbone"] = (
            f"{model.name}: {model.masked_parameters:,} masked weights in {model.masked_tensors} tensors{kept}"
        )
    else:
        facts["Backbone"] = str(config.get("backbone", "?"))
    facts["Data"] = _data(run)
    facts["Head"] = head_name({"config": config})
    if results.kept:
        facts["Model kept"] = outcome({"status": results.status, "kept": results.kept.model_dump()})
    facts["Seed"] = str(config.get("seed", "?"))
    return element(
        "header",
        element("p", "DeltaMask, report of a run", class_="kicker"),
        element("h1", title),
        line,
        element("p", results.reason, class_="reason") if results.reason else None,
        element("dl", *_pairs(facts), class_="facts"),
    )


def _data(run: Run) -> str:
    config, data = run.results.config, run.results.data
    partitioner = str(config.get("partitioner", "?"))
    extra = {"dirichlet": "dirichlet-alpha", "pathological": "classes-per-client"}.get(partitioner)
    split = f"{partitioner} ({extra} {config.get(extra)})" if extra else partitioner
    parts = [f"{config.get('dataset', '?')}, divided {split}"]
    if data:
        parts.append(f"{len(data.classes):,} classes, {data.test_images:,} test images")
        if data.broken_test_images:
            parts.append(f"{data.broken_test_images:,} more could not be read")
    return "; ".join(parts)


def _pairs(values: Mapping[str, Child]) -> Iterable[Element]:
    for name, value in values.items():
        yield element("dt", name)
        yield element("dd", value)


def _key_figures(run: Run) -> Element:
    sums, results = totals(run), run.results
    float32 = sums.up_float32 + sums.down_float32
    late = "" if sums.later_down_bits is None else f"{_bits(sums.later_down_bits)} from round 2 on; "
    # A model that clients test by a message of its own may be sent twice, and both count; in float32 once does.
    once = "float32 sent once a round" if any(entry.validation for entry in results.rounds) else "float32"
    kept = ""
    if sums.up_bits is not None and results.model and results.model.kept_parameters:
        by_kept = sums.up_bits * results.model.masked_parameters / results.model.kept_parameters
        kept = f"{_bits(by_kept)} for each weight kept; "
    on_links = amount(sums.bytes + sums.asked * _AROUND)
    failed, clients = sum(sums.failed.values()), len(client_figures(run))
    rounds = len(results.rounds)
    each = f"{sum(map(round_seconds, results.rounds)) / rounds:,.1f} s a round" if rounds else ""
    tiles = [
        _accuracy_tile(run),
        ("Up", _bits(sums.up_bits), "bits a parameter", kept + times_less(sums.up, sums.up_float32)),
        ("Down", _bits(sums.down_bits), "bits a parameter", late + times_less(sums.down, sums.down_float32, once)),
        (
            "Traffic", amount(sums.bytes), "",
            f"both ways, all clients, head included; about {on_links} on real links, with what Flower puts around it"
            + (f"; {times_less(sums.bytes, float32, once)}" if float32 else ""),
        ),
        (
            "Replies used", f"{sums.ok:,} of {sums.asked:,}", "",
            f"{failed:,} missing or dropped: {reasons(sums.failed)}" if failed else f"of {clients:,} clients",
        ),
        ("Time", duration(sums.seconds), "", "head round and rounds" + (f"; {each}" if each else "")),
    ]  # fmt: skip
    return element("ul", *(_tile(*tile) for tile in tiles), class_="keys")


def _accuracy_tile(run: Run) -> tuple[str, str, str, str]:
    names = form_names(run)
    before = run.results.head.accuracy if run.results.head else None
    if not names:
        return "Accuracy", percent(before, 1), "%" if before is not None else "", "no round has been tested yet"
    form, name = next(iter(names.items()))
    found = ((entry.accuracy or {}).get(form) for entry in run.results.rounds)
    after = [accuracy for accuracy in found if accuracy is not None][-1]
    if run.results.kept and run.results.kept.accuracy is not None:
        after = run.results.kept.accuracy
    start = head_name({"config": run.results.config})
    note = f"{start} → {name}" if before is not None else name
    if before is not None and before < 1 and after > before:
        note += f"; {100 * (after - before) / (1 - before):.0f} % fewer errors"
    value = percent(after, 1) if before is None else f"{percent(before, 1)} → {percent(after, 1)}"
    return "Accuracy", value, "%", note


def _bits(value: float | None) -> str:
    return NONE if value is None else f"{value:#.4g}" if value >= 1 else f"{value:.4f}"


def _tile(name: str, value: str, unit: str, note: str) -> Element:
    return element(
        "li",
        element("div", name, class_="name"),
        element("div", value, element("span", f" {unit}", class_="unit") if unit else None, class_="value"),
        element("div", note, class_="note"),
    )


def _payload(run: Run) -> list[Element]:
    kept = run.results.payload
    picture = None if run.payload is None else draw(run.payload)
    if kept is None or picture is None:
        return []
    size = f"{picture.width} \N{MULTIPLICATION SIGN} {picture.height} pixels, 8-bit grayscale"
    if picture.inside:
        title = "The image that travelled"
        what = f"{len(picture.png):,} of the payload's {kept.bytes:,} bytes are this PNG, {size}."
        more = (
            f"Its pixels are the fingerprints of a binary fuse filter (codec {picture.codec}), which says which mask "
            "bits have changed. They look random because they nearly are; black are the filter's empty slots. "
        )
    else:
        title = "A payload, drawn"
        shown = min(kept.bytes, picture.width * picture.height)
        part = "The bytes" if shown == kept.bytes else f"The first {shown:,} bytes"
        what = f"{part} of the payload drawn as an image, a pixel a byte: {size}."
        carried = f"codec {picture.codec}" if picture.codec else "plain numbers"
        more = f"What travelled is no image: {kept.bytes:,} bytes, {carried}. "
    whose = f"Payload of client {kept.client} in round {kept.round}"
    scale = max(1, 256 // picture.width)
    width, height = scale * picture.width, scale * picture.height
    return [
        element(
            "figure",
            element("figcaption", element("h3", title), element("p", f"{whose}. {what}")),
            element(
                "div",
                element("img", src=picture.uri, width=width, height=height, alt=f"{whose} as an image"),
                element("p", f"{more}It is kept as it came, in ", element("code", "payload.bin"), "."),
                class_="payload",
            ),
        )
    ]


def _rounds(run: Run) -> list[Element]:
    results = run.results
    if not results.rounds:
        return []
    names = form_names(run)
    held_out = any(entry.validation for entry in results.rounds)
    personal = any(entry.personal for entry in results.rounds)
    balanced = any(entry.classes for entry in results.rounds)
    heads = ["round", "replies", *(f"{name}, %" for name in names.values()), *["balanced, %"] * balanced]
    heads += ["held out, %", "worst decile, %"] * held_out + ["own models, %"] * personal
    heads += ["loss", "up, bpp", "down, bpp", "up", "down", "time", "failed"]
    rows: list[list[Child]] = []
    for entry in results.rounds:
        own: list[float | None] = [None, None]
        if entry.validation:
            own = [entry.validation.mean, entry.validation.worst_decile]
        accuracies = [(entry.accuracy or {}).get(form) for form in names]
        accuracies += [entry.classes.balanced_accuracy if entry.classes else None] * balanced + own * held_out
        accuracies += [entry.personal.mean if entry.personal else None] * personal
        failures = [reasons(entry.clients.failed)]
        if entry.validation and entry.validation.failed:
            failures.append(f"held-out test: {reasons(entry.validation.failed)}")
        failure = "; ".join(filter(None, failures)) or NONE
        rows.append([
            str(entry.number), f"{entry.clients.ok}/{entry.clients.asked}", *map(percent, accuracies),
            NONE if entry.train.loss is None else f"{entry.train.loss:.4f}",
            _bits(entry.uplink.bpp), _bits(entry.downlink.bpp),
            amount(entry.uplink.total), amount(entry.downlink.total),
            duration(round_seconds(entry)), failure,
        ])  # fmt: skip
    note = "bpp: bits for each masked parameter, mean over clients."
    return [element("h2", "Rounds"), _soft(note), table(heads, rows, "Rounds")]


def _clients(run: Run) -> list[Element]:
    clients = client_figures(run)
    if not clients:
        return []
    held_out = any(each.held_out is not None for each in clients)
    personal = any(each.personal is not None for each in clients)
    broken = any(each.broken_images for each in clients)
    heads = ["client", "replies used", "head", "rounds, up", "a round, up", "first message", "later messages"]
    heads += ["held out, %"] * held_out + ["own model, %"] * personal + ["unreadable images"] * broken + ["failed"]
    rows: list[list[Child]] = [
        [
            str(each.client), f"{each.ok}/{each.asked}", amount(each.head), amount(each.up),
            amount(each.up / each.ok) if each.ok else NONE, amount(each.first_down), amount(each.later_down),
            *[percent(each.held_out)] * held_out, *[percent(each.personal)] * personal,
            *[f"{each.broken_images:,}"] * broken, reasons(each.failed) or NONE,
        ]
        for each in clients
    ]  # fmt: skip
    return [element("h2", "Clients"), table(heads, rows, "Clients")]


def _soft(text: str) -> Element:
    return element("p", text, class_="soft")


def _footer(run: Run) -> Element:
    version = run.results.versions.get("deltamask", "")
    return element(
        "footer",
        f"DeltaMask {version}. All figures are of ",
        element("code", "results.json"),
        " in the run's folder. MB is 1,000,000 bytes; bytes are those of the payloads really sent.",
    )
