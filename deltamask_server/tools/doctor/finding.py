"""What one check of `deltamask doctor` says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Status", "failed", "ok", "warning"]


class Status(StrEnum):
    """How bad it is."""

    ok = "ok"
    warning = "warning"
    failed = "failed"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    check: str
    """What was looked at; the same word for the same check, whatever it finds."""
    status: Status
    found: str
    advice: str = ""
    """What to do; empty if all is well."""


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, Status.ok, found)


def warning(check: str, found: str, advice: str) -> Finding:
    """It may work."""
    return Finding(check, Status.warning, found, advice)


def failed(check: str, found: str, advice: str) -> Finding:
    """It will not work."""
    return Finding(check, Status.failed, found, advice)
