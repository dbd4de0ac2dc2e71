"""deploy/edge in a fresh Debian: installed, run, upgraded and removed by its own scripts."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_fresh_debian_takes_part_in_a_run(tmp_path: Path) -> None:
    """Ten minutes, 8 GB, and a package index: only where DELTAMASK_EDGE_ROOT names a folder for the fresh root."""
    folder = os.environ.get("DELTAMASK_EDGE_ROOT")
    if not folder:
        pytest.skip("set DELTAMASK_EDGE_ROOT to a folder (8 GB) for a fresh Debian")
    if os.geteuid() != 0:
        pytest.skip("chroot takes root")
    if missing := [tool for tool in ("debootstrap", "openssl", "unshare", "chroot") if not shutil.which(tool)]:
        pytest.skip(f"not on this machine: {', '.join(missing)}")
    log = tmp_path / "verify.log"
    with log.open("wb") as output:
        command = [str(ROOT / "deploy" / "edge" / "verify.sh"), folder]
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    text = log.read_text(errors="replace")
    assert done.returncode == 0, text[-6000:]
    assert text.rstrip().endswith("== all of it works")
