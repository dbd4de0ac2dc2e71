"""``deltamask report``: a run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltamask_server.tools.cli.output import fail

__all__ = ["report"]


def report(
    run: Annotated[Path, typer.Argument(help="A run's folder, finished or not.")] = Path("runs/latest"),
    output: Annotated[
        Path | None, typer.Option(help="The file to write; default: RUN/report.html.", show_default=False)
    ] = None,
) -> None:
    """Write a run as one HTML file: accuracy, bytes, time, clients, settings. It asks nothing of the network.

    Exit status 1 if the folder is no run's.
    """
    from common.errors import DataError
    from deltamask_server.tools.report import read_run, write_report

    target = output or run / "report.html"
    try:
        size = write_report(read_run(run), target)
    except DataError as error:
        fail(str(error), 1)
    except OSError as error:
        fail(f"{target}: cannot be written ({error.strerror or error})", 2)
    typer.echo(f"{target}: {size:,} bytes")
