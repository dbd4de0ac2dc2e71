"""The attacker wants the server's memory or its time: a payload that costs far more to read than to send.

Whatever it says, reading takes less than 64 bytes for each masked weight (three times what an honest payload of a whole
model takes) and ends. A process of its own decodes the worst that each header allows, at a million masked weights, and
its peak of memory is measured, that of zlib and Pillow included.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.wire import max_payload_bytes
from tests.attacks.targets import CODECS

D = 1_000_000
HANGS = 200
"""Seconds after which the process is ended; on an idle core it takes 10."""
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def decoded() -> list[dict]:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peaks of memory are measured with Linux's /proc")
    command = [sys.executable, "-m", "tests.attacks.decode_many", str(D), *CODECS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, f"something escaped:\n{done.stdout[-500:]}\n{done.stderr[-3000:]}"
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", CODECS)
def test_no_payload_takes_more_memory_than_d_allows(name: str, decoded: list[dict]) -> None:
    rows = [row for row in decoded if row["codec"] == name]
    assert len(rows) > 30
    assert max(row["payload"] for row in rows) == max_payload_bytes(D)
    worst = max(rows, key=lambda row: row["memory"])
    assert worst["memory"] < 64 * D, worst
