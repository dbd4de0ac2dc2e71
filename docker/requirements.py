"""What pyproject.toml asks for, a line each, and nothing else of it: a change of the code or of a run's defaults then
installs nothing anew.

    python requirements.py pyproject.toml [EXTRA ...]
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

__all__ = ["requirements"]


def requirements(project: dict[str, Any], extras: list[str]) -> list[str]:
    """The dependencies of a project, and of some of its extras; an extra may name others, as ``NAME[EXTRA,EXTRA]``.

    Raises
    ------
    SystemExit
        If there is no such extra.
    """
    found, known = list(project["dependencies"]), project["optional-dependencies"]
    queue = list(extras)
    while queue:
        extra = queue.pop(0)
        if extra not in known:
            raise SystemExit(f"there is no extra {extra}; choose among {', '.join(known)}")
        for each in known[extra]:
            if each.startswith(f"{project['name']}["):
                queue += each.partition("[")[2].rstrip("]").split(",")
            else:
                found.append(each)
    return found


if __name__ == "__main__":
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    print("\n".join(requirements(tomllib.loads(text)["project"], sys.argv[2:])))
