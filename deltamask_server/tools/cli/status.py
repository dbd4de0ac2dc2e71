"""``deltamask status``: how a run ended, as one line and an exit status; `flwr run` exits with 0 either way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltamask_server.tools.cli.output import existing_run

__all__ = ["status"]

_FAILED, _HEAD_KEPT, _RESUMABLE, _RUNNING = 1, 3, 4, 5


def status(
    folder: Annotated[Path, typer.Argument(help="A run's folder.")] = Path("runs/latest"),
) -> None:
    """Say how a run ended, or how far it is.

    Exit status 0 if it completed, 1 if it failed, 2 if there is none, 3 if it completed and training did not improve on
    the head, 4 if it ended before its last round and can be resumed, 5 if it goes on.
    """
    run = existing_run(folder)
    from deltamask_server.console import outcome, resume_line
    from deltamask_server.processes import is_gone
    from deltamask_server.results_file import read_results

    results = read_results(run)
    done, planned = len(results["rounds"]), results["config"]["num-server-rounds"]
    if results["status"] == "completed":
        typer.echo(outcome(results))
        raise typer.Exit(_HEAD_KEPT if (results.get("kept") or {}).get("round") == 0 else 0)
    if results["status"] == "running" and not is_gone(results):
        typer.echo(f"running, {done} of {planned} rounds")
        raise typer.Exit(_RUNNING)
    how = "its server ended without finishing" if results["status"] == "running" else outcome(results)
    typer.echo(f"{how}; {done} of {planned} rounds")
    line = resume_line(run)
    if line:
        typer.echo(line)
    raise typer.Exit(_RESUMABLE if line else _FAILED)
