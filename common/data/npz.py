"""Arrays of an ``.npz`` file. They are unpacked once into the cache, and mapped into memory from then on: a deployed
client is a new process for every message, and needs a few hundred of the images.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from common.data.split import Split, split_of_arrays
from common.errors import DataError
from common.files import CACHE_BYTES, evict, file_identity, kept_array, replacing

__all__ = ["open_npz"]

_Arrays = Mapping[str, NDArray[Any]]


def open_npz(path: Path, part: str, own: bool, cache: Path, limit_bytes: int = CACHE_BYTES) -> Split:
    """Open one split of an archive without pickled objects: ``x_train``, ``y_train``, ``x_test``, ``y_test``.

    Parameters
    ----------
    path
        The file.
    part
        ``train`` or ``test``.
    own
        It is one client's own: test images need not be in it.
    cache
        Where its arrays are unpacked; where that is not possible they are read into memory.
    limit_bytes
        Size of all arrays that are unpacked there.

    Raises
    ------
    DataError
        If there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise DataError(f"dataset: no file at {path}")
    parts = ("train",) if own else ("train", "test")
    needed = [f"{kind}_{of}" for of in parts for kind in "xy"]
    wanted = [f"x_{part}", *(f"y_{of}" for of in parts)]
    try:
        with path.open("rb") as file:
            identity = file_identity(path, os.fstat(file.fileno()))
            kept = [cache / "arrays" / f"{identity.hex()}-{name}.npy" for name in wanted]
            arrays = _mapped(wanted, kept)
            if arrays is None:
                arrays = _read(path, file, needed, wanted, kept, limit_bytes)
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"dataset: {path} cannot be read: {error}") from error
    labels = {of: arrays[f"y_{of}"] for of in parts}
    images = arrays[f"x_{part}"]
    _check(path, part, images, labels)
    classes = 1 + max(int(values.max(initial=0)) for values in labels.values())
    named = hashlib.blake2b(identity + part.encode(), digest_size=16).digest()
    return split_of_arrays(images, labels[part].astype(np.int64), classes, named)


def _mapped(names: Sequence[str], paths: Sequence[Path]) -> _Arrays | None:
    """Arrays that have been unpacked, or None if one is missing or damaged."""
    found = {name: kept_array(path) for name, path in zip(names, paths, strict=True)}
    arrays = {name: array for name, array in found.items() if array is not None}
    return arrays if len(arrays) == len(found) else None


def _read(
    path: Path, file: BinaryIO, needed: Sequence[str], wanted: Sequence[str], kept: Sequence[Path], limit_bytes: int
) -> _Arrays:
    with np.load(file, allow_pickle=False) as archive:
        missing = [key for key in needed if key not in archive]
        if missing:
            raise DataError(f"dataset: {path} has no {', '.join(missing)}; it needs {', '.join(needed)}")
        try:
            _unpack(archive.zip, wanted, kept)
        except (OSError, KeyError):  # read-only or full disk, or an odd archive: the cache saves time, no more
            arrays = None
        else:
            evict(kept[0].parent, limit_bytes, *kept)
            arrays = _mapped(wanted, kept)
        # Whatever cannot be mapped, such as an array of objects, NumPy reads, or says what is wrong with it.
        return {name: archive[name] for name in wanted} if arrays is None else arrays


def _unpack(archive: zipfile.ZipFile, names: Sequence[str], paths: Sequence[Path]) -> None:
    """Copy members, which are .npy files; the archive's checksums are checked on the way."""
    for name, path in zip(names, paths, strict=True):
        with archive.open(f"{name}.npy") as member, replacing(path) as temporary, temporary.open("wb") as copy:
            shutil.copyfileobj(member, copy, 1 << 20)


def _check(path: Path, part: str, images: NDArray[Any], labels: _Arrays) -> None:
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)):
        raise DataError(
            f"dataset: x_{part} of {path} is {images.dtype} {images.shape}; uint8 (n, h, w) or (n, h, w, 3) is needed"
        )
    for of, values in labels.items():
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer) or values.min(initial=0) < 0:
            raise DataError(
                f"dataset: y_{of} of {path} is {values.dtype} {values.shape}; integers (n,) from 0 on needed"
            )
    if len(labels[part]) != len(images):
        raise DataError(f"dataset: y_{part} of {path} has {len(labels[part])} labels for {len(images)} images")
    if len(images) == 0:
        raise DataError(f"dataset: {path} holds no {part} images")
