"""Decode damaged and hostile inputs without end, and keep those that anything is wrong with.

    python -m tests.fuzz --times 1000000 --json fuzz.json
    python -m tests.fuzz --repeat fuzz-findings/exact-1-4711.finding

An input is taken, or refused by an error that the decoder documents. Another exception, more than two seconds, or more
memory than docs/wire-format.md allows is a finding, which is written to a folder; the run goes on, and its exit status
is 1. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import sys
import time
from pathlib import Path

from tests.fuzz.findings import Findings, read_finding
from tests.fuzz.judge import FINDING, judge
from tests.fuzz.memory import peak_of
from tests.fuzz.report import Progress, line_of, summary
from tests.fuzz.run import Tally, fuzz
from tests.fuzz.targets import TARGETS

_HANGS = 300
"""Seconds after which one decode of a few is taken to hang: the process then ends, and leaves which one it was."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--times", type=int, help="decodes of all targets together; default: without end")
    parser.add_argument("--seconds", type=float, help="how long at most; default: without end")
    parser.add_argument("--seed", type=int, default=1, help="which inputs; default: 1")
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"), help="folder of the findings")
    parser.add_argument("--json", type=Path, help="write a summary there")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="decode the input of one finding again")
    args = parser.parse_args()
    unknown = set(args.targets) - TARGETS.keys()
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    if args.repeat:
        return repeat(args.repeat)
    targets = [TARGETS[name]() for name in args.targets or TARGETS]
    progress, begun = Progress(), time.monotonic()

    def hear(tallies: dict[str, Tally], name: str) -> None:
        faulthandler.dump_traceback_later(_HANGS, exit=True, file=sys.__stderr__)
        progress(tallies, name)

    tallies = fuzz(targets, args.seed, Findings(args.out, args.seed), args.times, args.seconds, hear)
    faulthandler.cancel_dump_traceback_later()
    found = summary(tallies, args.seed, time.monotonic() - begun)
    for name, tally in tallies.items():
        print(line_of(name, tally))
    print(
        f"{found['times']:,} decodes in {found['seconds']:,.0f} s, {found['decodes a second']:,.0f}/s, seed {args.seed}"
    )
    if found["findings"]:
        print(f"{found['findings']:,} findings: {args.out}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(found["findings"] > 0)


def repeat(path: Path) -> int:
    """Decode one input, and say what becomes of it."""
    target, given = read_finding(path, TARGETS)
    case = target.cases[given.case]
    print(f"{target.name}, {case.name}: {len(given.data):,} bytes")
    judge(case, case.honest[0])  # compiled code, tables
    verdicts = []
    peak = peak_of(lambda: verdicts.append(judge(case, given.data)))
    verdict = verdicts[0]
    print(verdict.details or verdict.what or verdict.outcome)
    print(f"{verdict.outcome} after {verdict.seconds:.3f} s with {peak:,} bytes of memory; at most {case.memory:,}")
    return int(verdict.outcome == FINDING or peak > case.memory)


if __name__ == "__main__":
    faulthandler.enable()
    sys.exit(main())
