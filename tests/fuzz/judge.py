"""What becomes of one input: it is taken, refused as documented, or a finding."""

from __future__ import annotations

import time
import traceback
from typing import NamedTuple

from common.errors import PayloadError
from tests.fuzz.case import Case

__all__ = ["ACCEPTED", "FINDING", "SLOWEST", "Verdict", "judge"]

ACCEPTED, FINDING = "accepted", "finding"
SLOWEST = 2.0
"""Seconds; what takes longer, twice in a row, is a finding. The second time tells a decoder from a busy machine."""


class Verdict(NamedTuple):
    """The outcome of a decode."""

    outcome: str
    """``accepted``, ``finding``, or the reason of a refusal."""
    seconds: float
    what: str = ""
    """What is wrong, in a line, of a finding."""
    details: str = ""
    """Its traceback."""


def judge(case: Case, data: bytes) -> Verdict:
    """Decode an input, and again where that took too long."""
    verdict = _decode(case, data)
    if verdict.seconds > SLOWEST and verdict.outcome != FINDING:
        again = _decode(case, data)
        if again.seconds > SLOWEST:
            return Verdict(FINDING, again.seconds, f"slow: {again.seconds:.1f} s")
        return again
    return verdict


def _decode(case: Case, data: bytes) -> Verdict:
    begun = time.perf_counter()
    try:
        case.read(data)
        outcome, what, details = ACCEPTED, "", ""
    except KeyboardInterrupt:
        raise
    except case.errors as error:
        outcome, what, details = reason_of(error), "", ""
        if outcome == PayloadError.reason:
            outcome, what = FINDING, f"a refusal without a reason of its own: {error}"
    except BaseException as error:  # compiled code panics by exceptions that are none of Python's
        outcome, what = FINDING, f"{type(error).__name__}: {error}"
        details = traceback.format_exc()
    return Verdict(outcome, time.perf_counter() - begun, what, details)


def reason_of(error: Exception) -> str:
    """What a refusal is counted by: the name on the wire, or the error's own."""
    return error.reason if isinstance(error, PayloadError) else type(error).__name__
