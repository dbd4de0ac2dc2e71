"""The end of the page: what a run was told, and the commands that make it again or use its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any
from xml.etree.ElementTree import Element

from deltamask_server.tools.report.data import Run
from deltamask_server.tools.report.elements import Child, details, element, table
from deltamask_server.tools.report.figures import client_figures
from deltamask_server.tools.report.wording import changed_settings, method_of_run, run_config_option

__all__ = ["commands", "settings"]


def settings(run: Run) -> list[Element]:
    """What was set, and the versions that it ran with."""
    config, versions = run.results.config, run.results.versions
    changed = changed_settings(config)
    rows = _pairs_of(changed)
    everything = _pairs_of(config)
    return [
        element("h2", "Settings"),
        table(("changed from its default", "value"), rows, "Changed settings", text_columns=2)
        if rows
        else element("p", "Every setting has its default.", class_="soft"),
        details("All settings", table(("key", "value"), everything, "All settings", text_columns=2)),
        details("Versions", table(("package", "version"), versions.items(), "Versions", text_columns=2)),
    ]


def _pairs_of(settings: Mapping[str, Any]) -> list[tuple[Child, ...]]:
    return [(key, element("code", _say(value))) for key, value in settings.items()]


def _say(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def commands(run: Run) -> list[Element]:
    """What to type, to run it again and to use what came out."""
    config = run.results.config
    changed = {key: value for key, value in changed_settings(config).items() if key != "output-dir"}
    clients = len(client_figures(run)) or int(config.get("min-clients", 2))
    place = PurePath(str(config.get("output-dir", "runs"))) / run.name
    simulate, connected = f"python deploy/simulate.py --supernodes {clients}", "flwr run . CONNECTION --stream"
    if changed:
        option = run_config_option(changed)
        simulate, connected = f"{simulate} --run-config {option}", f"{connected} -c {option}"
    made = [("Again, as a simulation", simulate), ("Again, on machines that are connected", connected)]
    method = method_of_run(config)
    if method is not None and method.exports and run.results.status == "completed":
        made.append(("The model as one file", f"deltamask export {place} --form {method.exports[0]}"))
    if run.payload is not None:
        made.append(("What the payload says", f"deltamask inspect {place / 'payload.bin'}"))
    made.append(("This page", f"deltamask report {place}"))
    parts: list[Element] = [element("h2", "Commands")]
    for name, command in made:
        parts += [element("h3", name), element("pre", element("code", command), tabindex="0")]
    return parts
