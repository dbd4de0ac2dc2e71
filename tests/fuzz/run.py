"""All targets in turn, so that a slow one takes no other's share of the inputs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.fuzz.case import Input, Target
from tests.fuzz.findings import Findings
from tests.fuzz.judge import ACCEPTED, FINDING, Verdict, judge
from tests.fuzz.memory import peak_of

__all__ = ["Tally", "fuzz"]

_BATCH = 25
"""Inputs of a target before the next one's turn; their peak of memory is measured together."""


@dataclass
class Tally:
    """What has become of the inputs of one target."""

    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """By reason."""
    findings: int = 0
    seconds: float = 0.0
    """Of decoding."""
    slowest: float = 0.0
    peak: int = 0
    """Bytes of memory, at most."""

    @property
    def decodes(self) -> int:
        """Inputs so far."""
        return self.accepted + self.refused.total() + self.findings

    def add(self, verdict: Verdict) -> None:
        """Count one."""
        self.accepted += verdict.outcome == ACCEPTED
        self.findings += verdict.outcome == FINDING
        if verdict.outcome not in (ACCEPTED, FINDING):
            self.refused[verdict.outcome] += 1
        self.seconds += verdict.seconds
        self.slowest = max(self.slowest, verdict.seconds)


def fuzz(
    targets: Sequence[Target],
    seed: int,
    findings: Findings,
    times: int | None = None,
    seconds: float | None = None,
    hear: Callable[[dict[str, Tally], str], None] = lambda tallies, name: None,
) -> dict[str, Tally]:
    """Decode until there were enough, or until Ctrl-C.

    Parameters
    ----------
    targets
        What is attacked.
    seed
        Which inputs: a run of the same seed has the same ones, in the same order.
    findings
        Takes what is wrong.
    times, seconds
        How many decodes of all targets together, and how long at most; None: without end.
    hear
        Called after some inputs of a target, with what there was so far and its name.
    """
    tallies = {target.name: Tally() for target in targets}
    quota = [None if times is None else times // len(targets) + (i < times % len(targets)) for i in range(len(targets))]
    begun = time.monotonic()
    try:
        _warm(targets)
        while True:
            busy = False
            for target, most in zip(targets, quota, strict=True):
                tally = tallies[target.name]
                first = tally.decodes
                numbers = range(first, first + _BATCH if most is None else min(first + _BATCH, most))
                if not numbers or (seconds is not None and time.monotonic() - begun > seconds):
                    continue
                busy = True
                _batch(target, numbers, seed, tally, findings)
                hear(tallies, target.name)
            if not busy:
                break
    except KeyboardInterrupt:
        pass
    findings.end()
    return tallies


def _warm(targets: Sequence[Target]) -> None:
    """Compiled code is loaded and tables are made when they are first used: that is nobody's time or memory."""
    for target in targets:
        for given in target.honest:
            judge(target.cases[given.case], given.data)


def _batch(target: Target, numbers: range, seed: int, tally: Tally, findings: Findings) -> None:
    inputs = [target.input(seed, number) for number in numbers]
    verdicts: list[Verdict] = []

    def decode() -> None:
        for number, given in zip(numbers, inputs, strict=True):
            findings.begin(target.name, number)
            verdicts.append(judge(target.cases[given.case], given.data))

    peak = peak_of(decode)
    tally.peak = max(tally.peak, peak)
    if peak > min(target.cases[given.case].memory for given in inputs):
        verdicts = [_alone(target, given, verdict) for given, verdict in zip(inputs, verdicts, strict=True)]
    for number, given, verdict in zip(numbers, inputs, verdicts, strict=True):
        tally.add(verdict)
        if verdict.outcome == FINDING:
            findings.add(target, number, given, verdict)


def _alone(target: Target, given: Input, verdict: Verdict) -> Verdict:
    """The verdict, or what an input alone takes of memory if that is too much."""
    case = target.cases[given.case]
    peak = peak_of(lambda: judge(case, given.data))
    if verdict.outcome == FINDING or peak <= case.memory:
        return verdict
    return Verdict(FINDING, verdict.seconds, f"memory: {peak:,} bytes; at most {case.memory:,}")
