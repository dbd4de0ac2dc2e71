"""Follow a run on a terminal, as a live table; in a log or pipe, as one line a round.

    python -m deltamask_server.watch [runs/latest]

It reads the run's folder, so it works alike for simulation, deployment and finished runs. The exit status is 0 only if
the run completed. `make demo` starts it right after `flwr run`, with ``--after`` and ``--superlink``: it then waits for
the new run's folder to appear, and asks Flower when nothing moves.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from deltamask_server.console import COLUMNS, HEADER, failed_replies, round_cells, round_line, summary

__all__ = ["follow"]

_POLL_SECONDS = 0.5
_SUSPICIOUS_SECONDS = 30.0
_START_SECONDS = 120.0


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
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while results.get("status", "running") == "running":
            if (changed := (folder / "results.json").stat().st_mtime_ns) != stamp:
                stamp, quiet_since = changed, time.monotonic()
                results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
                if console.is_terminal:
                    live.update(_table(results, folder), refresh=True)
                else:
                    shown = _print_lines(results, shown)
            elif time.monotonic() - quiet_since > _SUSPICIOUS_SECONDS:
                if has_ended():
                    results |= {
                        "status": "failed",
                        "reason": "the server ended without finishing; see Flower's log of the run",
                    }
                quiet_since = time.monotonic()
            else:
                time.sleep(_POLL_SECONDS)
    print(summary(results, folder), flush=True)
    return bool(results["status"] == "completed")


def _print_lines(results: dict[str, Any], shown: int) -> int:
    """Print what is new; ``shown`` counts the lines printed before (the probe's counts as one)."""
    if shown == 0 and "linear_probe" in results:
        print(f"linear probe: accuracy {results['linear_probe']['accuracy']:.4f}\n{HEADER}", flush=True)
        shown = 1
    for entry in results["rounds"][max(0, shown - 1) :] if shown else []:
        print(round_line(entry), flush=True)
        shown += 1
    return shown


def _table(results: dict[str, Any], folder: Path) -> Table:
    config = results["config"]
    done, planned = len(results["rounds"]), config["num-server-rounds"]
    title = f"{config['method']} on {config['dataset']}, codec {config['codec']}: "
    title += f"{results['status']}, {done} of {planned} rounds"
    any_failed = any(entry["clients"]["failed"] for entry in results["rounds"])
    table = Table(title=title, caption=str(folder), box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in (*COLUMNS, "failed") if any_failed else COLUMNS:
        table.add_column(name, justify="right", no_wrap=name != "failed")
    if "linear_probe" in results:
        table.add_row("probe", f"{results['linear_probe']['accuracy']:.4f}", style="dim")
    for entry in results["rounds"]:
        failed = failed_replies(entry["clients"])
        table.add_row(*round_cells(entry), *([failed] if any_failed else []), style="yellow" if failed else "")
    return table


def _wait_for_new(latest: Path, after: float) -> Path | None:
    """The folder of the first run that started after a time (seconds since 1970), or None when there is none in
    time.
    """
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if (latest / "results.json").is_file() and latest.resolve().stat().st_mtime >= after:
            return latest.resolve()
        time.sleep(_POLL_SECONDS)
    return None


def _ended_by_flower(superlink: str, folder: Path) -> bool:
    """Ask Flower whether this folder's run is over."""
    run_id = folder.name.rsplit("-", 1)[-1]
    done = subprocess.run(
        ["flwr", "ls", superlink, "--run-id", run_id, "--format", "json"], capture_output=True, text=True, check=False
    )
    return '"status": "finished' in done.stdout


def main() -> None:
    """Follow the run named on the command line."""
    parser = argparse.ArgumentParser(description="Follow a run; exit status 0 if it completed.")
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("runs/latest"), help="a run's folder (default: runs/latest)"
    )
    parser.add_argument(
        "--after", type=float, help="wait for a run that started after this time, in seconds since 1970"
    )
    parser.add_argument("--superlink", help="Flower's name of the SuperLink, to ask when nothing moves")
    args = parser.parse_args()
    folder = args.folder.resolve() if args.after is None else _wait_for_new(args.folder, args.after)
    if folder is None:
        name = args.superlink or ""
        parser.error(
            f"no run began in {args.folder.parent} within {_START_SECONDS:.0f} s; "
            f"`flwr ls {name}` and `flwr log RUN-ID {name} --show` say why"
        )
    if not (folder / "results.json").is_file():
        parser.error(f"no run at {folder}: start one, or name its folder")
    completed = follow(
        folder, (lambda: _ended_by_flower(args.superlink, folder)) if args.superlink else (lambda: False)
    )
    sys.exit(0 if completed else 1)


if __name__ == "__main__":
    main()
