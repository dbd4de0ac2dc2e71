"""Checks of this machine alone: Python, libraries, device, memory, disks."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from common.errors import brief
from deltamask_server.tools.doctor.finding import Finding, failed, ok, warning

__all__ = ["REINSTALL", "check_device", "check_disk", "check_libraries", "check_memory", "check_python"]

_PYTHONS = ((3, 11), (3, 12))
_LIBRARIES = ("torch", "torchvision", "timm", "numba", "constriction", "pyfusefilter", "flwr", "common.codecs")
REINSTALL = "install the project again in this environment (deploy/edge/install.sh, or pip install --force-reinstall)"
_LITTLE_MEMORY, _ENOUGH_MEMORY = 0.5e9, 1.5e9
"""Bytes: Python with torch and Numba takes about 0.5 GB, and a SuperNode is two such processes and the images."""
_NO_CACHE = "no locator available"
_PROBE = b"\0" * 65536


def check_python() -> Finding:
    """The interpreter, and the processor it is for."""
    found = f"{platform.python_version()} at {sys.executable}, {platform.machine()}"
    if sys.version_info[:2] not in _PYTHONS:
        return failed("python", found, "Python 3.11 or 3.12 is needed: make the environment with one of them")
    return ok("python", found)


def check_libraries() -> Finding:
    """Everything that is compiled, really loaded: a wheel for another processor shows only then."""
    broken, versions = [], []
    for name in _LIBRARIES:
        try:
            import_module(name)
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(name)
        except Exception as error:  # a broken library raises whatever it likes
            broken.append(f"{name}: {type(error).__name__}: {brief(error)}")
    if any(_NO_CACHE in each for each in broken):
        advice = "set NUMBA_CACHE_DIR to a folder that this account may write, as deploy/edge/install.sh does"
        return failed("libraries", f"Numba finds no place for what it compiles: {broken[0]}", advice)
    if broken:
        return failed("libraries", "; ".join(broken), REINSTALL)
    return ok("libraries", ", ".join(versions))


def check_device(device: str) -> Finding:
    """The device that training will use multiplies two matrices, and the product is right.

    Parameters
    ----------
    device
        As in the node config: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """
    try:
        import torch
    except Exception as error:
        return failed("device", f"torch does not load: {brief(error)}", REINSTALL)
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        left = torch.arange(64 * 64, dtype=torch.float32).reshape(64, 64).remainder(7)
        expected = left.to(torch.int64) @ left.to(torch.int64).T
        on_device = left.to(chosen)
        right = bool(((on_device @ on_device.T).cpu().to(torch.int64) == expected).all())
    except Exception as error:
        return failed(
            "device",
            f"{chosen} does not compute: {brief(error)}",
            "set device='cpu' in the node config, or repair the driver (nvidia-smi; the service needs /dev/nvidia*)",
        )
    if not right:
        return failed("device", f"{chosen} computes wrong products", "do not use this device: set device='cpu'")
    name = torch.cuda.get_device_name(chosen) if chosen.startswith("cuda") else f"{os.cpu_count()} cores"
    if device == "auto" and chosen == "cpu" and Path("/proc/driver/nvidia/version").exists():
        advice = "torch has no CUDA for it: install a CUDA build of torch that fits the driver (nvidia-smi)"
        return warning("device", f"cpu ({name}), although a driver of NVIDIA is loaded", advice)
    return ok("device", f"{chosen} ({name}) computes")


def check_memory() -> Finding:
    """What is free now, or what a limit of this process's group leaves."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
    total, free = (1024 * int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    found = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    if free < _LITTLE_MEMORY:
        return failed(
            "memory", found, f"{_LITTLE_MEMORY / 1e9:g} GB are not enough to load torch: end something, or add swap"
        )
    if free < _ENOUGH_MEMORY:
        advice = f"below {_ENOUGH_MEMORY / 1e9:g} GB: use batch-size=8 and activations='disk', and a small backbone"
        return warning("memory", found, advice)
    return ok("memory", found)


def check_disk(check: str, folder: Path, free_gb: float) -> Finding:
    """Free space where a folder is or will be, and whether it can be written.

    Parameters
    ----------
    check
        Name of the line.
    folder
        The folder; its parents need not exist.
    free_gb
        How much must be free, in 10^9 bytes.
    """
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    free = shutil.disk_usage(there).free
    found = f"{free / 1e9:.1f} GB free at {folder}"
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(_PROBE)
            file.flush()
    except OSError as error:
        advice = f"make room there, and let the account that runs Flower write into {there} (it is {os.geteuid()} now)"
        return failed(check, f"{found}, but nothing can be written: {error.strerror}", advice)
    if free < free_gb * 1e9:
        return failed(
            check, f"{found}, {free_gb:g} GB needed", "make room there, or name another folder (cache-dir, FLWR_HOME)"
        )
    return ok(check, found)
