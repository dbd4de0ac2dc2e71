"""Probabilities from files: ``.npy``, or the ``model.safetensors`` that a run leaves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from common.errors import DataError
from common.theta import probabilities

__all__ = ["read_probabilities"]

_TENSOR = "theta"
_NPY = b"\x93NUMPY"


def read_probabilities(path: Path, option: str) -> NDArray[np.float32]:
    """Read a vector of probabilities.

    Parameters
    ----------
    path
        A .npy file, or a .safetensors file with a tensor `theta`: uint16 of 1..65535 (probability x 65536), or floats
        in [0, 1].
    option
        The option that named it, for errors.

    Returns
    -------
    float32 ``(d,)`` in [0, 1], d at least 1; exact for values of the grid.

    Raises
    ------
    DataError
        If the file is missing or damaged, or holds anything else.
    """
    where = f"{option} {path}"
    if not os.path.isfile(path):  # unlike Path.is_file, it never raises
        raise DataError(f"{where}: there is no such file; name a .npy or .safetensors file")
    readers = {".npy": _read_npy, ".safetensors": _read_safetensors}
    if path.suffix not in readers:
        raise DataError(f"{where}: a {path.suffix or 'file without suffix'} is not known; use .npy or .safetensors")
    try:
        values = readers[path.suffix](path)
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        # NumPy and safetensors raise all of these on damaged files.
        reason = str(error) or type(error).__name__
        raise DataError(f"{where}: cannot be read, {reason}; is it complete?") from error
    if values is None:
        raise DataError(f"{where}: there is no tensor `{_TENSOR}` in it; name the model.safetensors of a run")
    return _check(values, where)


def _read_npy(path: Path) -> NDArray[Any]:
    with path.open("rb") as file:
        if file.read(len(_NPY)) != _NPY:  # NumPy would take it for a pickle, and say how to load that
            raise ValueError("it does not begin as a .npy file")
    # Mapped: a header may promise more than the file holds, and nothing is to be allocated for that.
    values: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return values


def _read_safetensors(path: Path) -> NDArray[Any] | None:
    with safe_open(path, framework="numpy") as file:
        return file.get_tensor(_TENSOR) if _TENSOR in file.keys() else None  # noqa: SIM118  (it is no dict)


def _check(values: NDArray[Any], where: str) -> NDArray[np.float32]:
    if values.ndim != 1 or values.size == 0:
        raise DataError(f"{where}: the shape is {values.shape}; a vector of d >= 1 values is needed, so flatten it")
    if values.dtype == np.uint16:
        if (zeros := np.flatnonzero(values == 0)).size:
            raise DataError(f"{where}: position {zeros[0]} is 0; the grid of uint16 is 1..65535 (probability x 65536)")
        return probabilities(values)
    if values.dtype.kind != "f":
        raise DataError(
            f"{where}: the values are {values.dtype}; uint16 (probability x 65536) or floats in [0, 1] are needed"
        )
    found = np.asarray(values, dtype=np.float32)
    if (odd := np.flatnonzero(~((found >= 0) & (found <= 1)))).size:  # NaN too, which compares as false
        first = int(odd[0])
        raise DataError(
            f"{where}: position {first} is {found[first]:g}; probabilities are 0 to 1 (scores are not meant)"
        )
    return found
