"""Reading what a run has written of itself: results.json, and rounds.jsonl while the run goes on.

A run of many rounds would write a file that grows with every round again and again. So a round is a line appended to
rounds.jsonl, and results.json, which has everything else, gets the rounds when the run ends.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["newest_change", "place_earlier", "place_rounds", "read_results", "read_rounds"]

_RESULTS, _ROUNDS = "results.json", "rounds.jsonl"


def read_results(folder: Path) -> dict[str, Any]:
    """All that a run has written so far, as results.json has it in the end.

    Raises
    ------
    OSError, ValueError
        If there is no results.json in the folder, or it is no JSON.
    """
    results: dict[str, Any] = json.loads((folder / _RESULTS).read_bytes())
    if isinstance(results, dict) and results.get("status") == "running" and results.get("rounds") == []:
        place_rounds(results, read_rounds(folder))
    return results


def place_rounds(results: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    """Put lines of rounds.jsonl where results.json has them in the end."""
    for line in lines:
        entry = dict(line)
        place_earlier(results, entry.pop("earlier", None))
        results["rounds"].append(entry)
    kept = [entry for entry in results["rounds"] if entry.get("payload")]
    if kept:
        results["payload"] = {"round": kept[-1]["round"], **kept[-1]["payload"]}


def place_earlier(results: dict[str, Any], earlier: dict[str, Any] | None) -> None:
    """Put what a round's clients said of an earlier round's model where it belongs: ``validation`` of that round, or of
    the head alone.
    """
    if earlier is not None:
        server_round, validation = earlier["round"], earlier["validation"]
        entries = results["rounds"] if server_round else [results["linear_probe"]]
        for entry in entries:
            if entry.get("round", 0) == server_round:
                entry["validation"] = validation


def newest_change(folder: Path) -> int:
    """When the run last wrote anything, nanoseconds since 1970."""
    files = (folder / _RESULTS, folder / _ROUNDS)
    return max(file.stat().st_mtime_ns for file in files if file.is_file())


def read_rounds(folder: Path) -> list[dict[str, Any]]:
    """The lines of rounds.jsonl that are there whole: the last one may be half written."""
    path = folder / _ROUNDS
    if not path.is_file():
        return []
    whole = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in whole]
