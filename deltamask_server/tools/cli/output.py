"""How commands speak: one console, one form of error."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console

__all__ = ["existing_run", "fail", "make_console"]

_UNSEEN_WIDTH = 100


def make_console(stderr: bool = False) -> Console:
    """A console as wide as the terminal; a file or pipe has no width, and gets 100 columns."""
    known = (sys.stderr if stderr else sys.stdout).isatty() or "COLUMNS" in os.environ
    width = None if known else _UNSEEN_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def fail(message: str, status: int) -> NoReturn:
    """End the command with one line on stderr.

    Parameters
    ----------
    message
        What is wrong, where, and what to do.
    status
        1 if a file is not what it should be, 2 if the command makes no sense.
    """
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(status)


def existing_run(folder: Path) -> Path:
    """The folder of a run, resolved now: `latest` may point to another one later. Ends the command if there is none, or
    what it has written is no JSON.
    """
    run = folder.resolve()
    if not (run / "results.json").is_file():
        fail(f"no run at {run}: start one, or name its folder", 2)
    from deltamask_server.results_file import read_results

    try:
        read_results(run)
    except (OSError, ValueError) as error:
        fail(f"{run / 'results.json'}: cannot be read, {error}; if it was edited by hand, undo that", 1)
    return run
