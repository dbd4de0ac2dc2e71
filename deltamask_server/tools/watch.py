"""Follow a run on a terminal, as a live table; in a log or pipe, as one line a round.

It reads the run's folder, so it works alike for simulation, deployment and finished runs.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from common.methods import METHODS
from deltamask_server.console import columns, failed_replies, head_name, header, round_cells, round_line, summary
from deltamask_server.results_file import newest_change, read_results

__all__ = ["ended_by_flower", "follow", "wait_for_run"]

_POLL_SECONDS = 0.5
_SUSPICIOUS_SECONDS = 30.0
_START_SECONDS = 600.0
_ASK_SECONDS = 5.0


def follow(folder: Path, has_ended: Callable[[], bool] = lambda: False) -> bool:
    """Show a run until it ends; True if it completed.

    Parameters
    ----------
    folder
        The run's folder.
    has_ended
        Asked when nothing was written for a while: whether the run is over without having said so (its process was
        killed).
    """
    console = Console()
    shown, stamp, quiet_since = 0, 0, time.monotonic()
    results: dict[str, Any] = {}
    ended = False
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while results.get("status", "running") == "running":
            if (changed := newest_change(folder)) != stamp:
                stamp, quiet_since = changed, time.monotonic()
                results = read_results(folder)
                if console.is_terminal:
                    live.update(_table(results, folder), refresh=True)
                else:
                    shown = _print_lines(results, shown)
            elif ended:  # and nothing was written since before that was asked
                results |= {
                    "status": "failed",
                    "reason": "the server ended without finishing; see Flower's log of the run",
                }
            elif time.monotonic() - quiet_since > _SUSPICIOUS_SECONDS:
                # Asking takes seconds, in which the run may write its last line and end: look again before it is
                # called failed.
                ended = has_ended()
                quiet_since = time.monotonic()
            else:
                time.sleep(_POLL_SECONDS)
    print(summary(results, folder), flush=True)
    return bool(results["status"] == "completed")


def _print_lines(results: dict[str, Any], shown: int) -> int:
    """Print what is new; ``shown`` counts the lines printed before (the probe's counts as one)."""
    personal = _tests_personal(results)
    if shown == 0 and "linear_probe" in results:
        probe = results["linear_probe"]["accuracy"]
        print(f"{head_name(results)}: accuracy {probe:.4f}\n{header(personal)}", flush=True)
        shown = 1
    for entry in results["rounds"][max(0, shown - 1) :] if shown else []:
        print(round_line(entry, personal), flush=True)
        shown += 1
    return shown


def _table(results: dict[str, Any], folder: Path) -> Table:
    config = results["config"]
    done, planned = len(results["rounds"]), config["num-server-rounds"]
    title = f"{config['method']} on {config['dataset']}, {METHODS[config['method']].coding(config)}: "
    title += f"{results['status']}, {done} of {planned} rounds"
    any_failed = any(entry["clients"]["failed"] for entry in results["rounds"])
    table = Table(title=title, caption=str(folder), box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    personal = _tests_personal(results)
    for name in (*columns(personal), *(["failed"] if any_failed else [])):
        table.add_column(name, justify="right", no_wrap=name != "failed")
    if "linear_probe" in results:
        table.add_row("probe", f"{results['linear_probe']['accuracy']:.4f}", style="dim")
    for entry in results["rounds"]:
        failed = failed_replies(entry["clients"])
        cells = [*round_cells(entry, personal), *([failed] if any_failed else [])]
        table.add_row(*cells, style="yellow" if failed else "")
    return table


def _tests_personal(results: dict[str, Any]) -> bool:
    return bool(results["config"].get("personal-test"))  # runs from before there was such a key have none


def wait_for_run(latest: Path, after: float, has_ended: Callable[[], bool] = lambda: False) -> Path | None:
    """The folder of the first run that started after a time (seconds since 1970).

    None if there is none in time, or ``has_ended`` says that none will come.
    """
    end, ask = time.monotonic() + _START_SECONDS, time.monotonic() + _ASK_SECONDS
    while time.monotonic() < end:
        ended = time.monotonic() >= ask and has_ended()  # before the look: a run may begin and end in between
        if (latest / "results.json").is_file() and latest.resolve().stat().st_ctime >= after:
            return latest.resolve()
        if ended:
            return None
        ask += _ASK_SECONDS if time.monotonic() >= ask else 0
        time.sleep(_POLL_SECONDS)
    return None


def ended_by_flower(superlink: str, run_id: str) -> bool:
    """Whether Flower says that a run is over."""
    command = ["flwr", "ls", superlink, "--run-id", run_id, "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return '"status": "finished' in done.stdout
