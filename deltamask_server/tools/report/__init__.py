"""A run as one HTML page: `deltamask report`, and what a run writes when it ends."""

from __future__ import annotations

from pathlib import Path

from common.files import replacing
from deltamask_server.tools.report.data import Run, parse_run, read_run
from deltamask_server.tools.report.elements import to_html
from deltamask_server.tools.report.page import page

__all__ = ["Run", "parse_run", "read_run", "write_report"]


def write_report(run: Run, path: Path) -> int:
    """Write a run's page, and return its bytes; raises OSError."""
    with replacing(path, mode=0o644) as temporary:
        return temporary.write_bytes(to_html(page(run)))
