"""Committed results: take one from a run's folder.

    python -m benchmarks.results runs/latest demo-digits     # -> benchmarks/results/demo-digits.json

A result is the run's own results.json; only its output folder, a path of one machine, is left out. Figures in the
README and in docs/ come from these files.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


def keep(run: Path, name: str) -> Path:
    """Copy a run's results, without what only its machine knows."""
    results: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    if results["status"] != "completed":
        raise SystemExit(f"{run} is {results['status']}: only completed runs are kept")
    results["config"].pop("output-dir")
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return path


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Keep the results of a run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    args = parser.parse_args()
    print(keep(args.run, args.name))


if __name__ == "__main__":
    main()
