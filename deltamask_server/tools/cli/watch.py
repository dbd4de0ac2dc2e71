"""``deltamask watch``: a run as a live table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltamask_server.tools.cli.output import existing_run

__all__ = ["watch"]


def watch(
    folder: Annotated[Path, typer.Argument(help="A run's folder, finished or not.")] = Path("runs/latest"),
) -> None:
    """Follow a run until it ends, as a live table; in a log or pipe, as one line a round.

    Exit status 1 if the run does not complete, 2 if there is none.
    """
    run = existing_run(folder)
    from deltamask_server.processes import is_gone
    from deltamask_server.results_file import read_results
    from deltamask_server.tools.watch import follow

    raise typer.Exit(0 if follow(run, lambda: is_gone(read_results(run))) else 1)
