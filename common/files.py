"""Files that other processes may read, write or remove at the same time: replaced whole, removed when a cache is full.

A deployed client is a new process for every message, and several clients and runs may share one cache folder. There is
no lock: a file is written beside its place and then renamed, so that nobody reads half of one, and it is named by what
it depends on, so that two processes that write the same file write the same bytes. A file that another process removes
stays readable for those who have it mapped; for those who come later it is missing, and they make it again.

The library diskcache keeps a cache below a size too, and is not used: its index is an SQLite database that has to agree
with the files and that file systems of a network do not lock well, a large value is copied into its file from another
one, reading it back as a memory map goes past its interface, and what is not bytes it pickles. What is left, removing
the files that were used longest ago, is one short function.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CACHE_BYTES", "evict", "file_identity", "keep_array", "kept_array", "replacing"]

CACHE_BYTES = 20 * 10**9
"""What one folder of a cache may hold, unless told otherwise."""

_OURS = re.compile(r"[0-9a-f]{32}(-\w+)?\.npy(\..*\.tmp)?")
"""Names of cache files, and of unfinished ones. Nothing else is ever removed: users may name a folder with other files
as their cache.
"""
_UNFINISHED_SECONDS = 24 * 3600


@contextmanager
def replacing(path: Path, *, mode: int = 0o600, fsync: bool = False) -> Iterator[Path]:
    """Write a file so that it is there as a whole or not at all.

    Parameters
    ----------
    path
        What is written or replaced; its folder is made.
    mode
        Permissions.
    fsync
        Wait until the disk has it: then it also survives a power cut.

    Yields
    ------
    Another path in the same folder, of an empty file. It is renamed to ``path`` at the end of the block, or removed
    where the block raises.

    Raises
    ------
    OSError
        If it cannot be written: a read-only or full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(mode)
        if fsync:
            _fsync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if fsync:
        _fsync(path.parent)  # the name, too


def keep_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array of a cache, for `kept_array`.

    Raises
    ------
    OSError
        If the disk does not take it: it is read-only or full.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def kept_array(path: Path) -> NDArray[Any] | None:
    """Map an array of a cache into memory, and note that it was used.

    Returns
    -------
    Read-only, or None where there is no such file (any more) or it is damaged: it is then to be made again.
    """
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except Exception:  # a damaged header raises many types
        return None
    with suppress(OSError):  # a read-only cache can be used all the same
        os.utime(path)
    return array


def evict(folder: Path, limit_bytes: int, *keep: Path) -> None:
    """Remove the cache files of a folder that were used longest ago, until the rest are within a limit.

    Parameters
    ----------
    folder
        The cache files are those directly in it that are named as `kept_array` files are here: 32 hexadecimal digits,
        perhaps a suffix, and ``.npy``. What a killed process left unfinished is removed after a day.
    limit_bytes
        Their size in all.
    keep
        Files that stay, whatever their size: those just written.
    """
    found: list[tuple[int, str, Path]] = []
    total = 0
    for path in folder.glob("*"):
        if not _OURS.fullmatch(path.name):
            continue
        with suppress(OSError):  # another process has just removed it, or may and this one may not
            status = path.stat()
            if path.suffix == ".tmp":
                if status.st_mtime < time.time() - _UNFINISHED_SECONDS:
                    path.unlink()
                continue
            total += status.st_size
            if path not in keep:
                found.append((status.st_mtime_ns, path.name, path))
    for _, _, path in sorted(found):
        if total <= limit_bytes:
            return
        with suppress(OSError):
            size = path.stat().st_size
            path.unlink()
            total -= size


def file_identity(path: Path, status: os.stat_result | None = None) -> bytes:
    """Tell a file from others, and from what it was before it was changed, without reading it.

    Parameters
    ----------
    path
        The file; links are followed.
    status
        What `os.fstat` says of it where it is open already.

    Returns
    -------
    16 bytes of its resolved path, size, time of change and inode. A file that is written twice within one tick of the
    file system's clock, in place and to the same size, looks unchanged.
    """
    status = path.stat() if status is None else status
    parts = f"{status.st_size}/{status.st_mtime_ns}/{status.st_ino}/".encode()
    return hashlib.blake2b(parts + os.fsencode(path.resolve()), digest_size=16).digest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
