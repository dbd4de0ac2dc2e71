"""Datasets: scikit-learn's handwritten digits, built in, and ``.npz`` files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from common.errors import DataError

__all__ = ["Dataset", "load_dataset"]

_NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
_DIGITS_TEST = 450


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images uint8 ``(n, height, width)`` or ``(n, height, width, 3)``, labels int64 ``(n,)`` in 0 .. classes - 1."""

    x_train: NDArray[np.uint8]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int64]
    classes: int


def load_dataset(name: str, train_limit: int = 0, test_limit: int = 0) -> Dataset:
    """Load a dataset by its config value.

    Parameters
    ----------
    name
        ``digits``: 1,797 handwritten digits of 8 x 8 pixels (Alpaydin, Kaynak 1998), the last 450 for testing: they
        come from other writers than the first ones. ``npz:PATH``: a NumPy archive without pickled objects.
    train_limit, test_limit
        At most so many images, the first of each class in equal numbers; 0 is all.

    Raises
    ------
    DataError
        If the file is missing or not of the expected form.
    """
    if name == "digits":
        data = _load_digits()
    elif name.startswith("npz:"):
        data = _load_npz(Path(name.removeprefix("npz:")).expanduser().resolve())
    else:
        raise DataError(f"dataset = {name!r}: use `digits` or `npz:PATH`")
    train, test = _balanced(data.y_train, data.classes, train_limit), _balanced(data.y_test, data.classes, test_limit)
    return replace(
        data,
        x_train=data.x_train[train],
        y_train=data.y_train[train],
        x_test=data.x_test[test],
        y_test=data.y_test[test],
    )


def _load_digits() -> Dataset:
    images, labels = load_digits(return_X_y=True)
    # Values are 0..16; the division is exact enough for a byte and the same everywhere.
    pixels = np.minimum(images * 16, 255).astype(np.uint8).reshape(-1, 8, 8)
    labels = labels.astype(np.int64)
    return Dataset(pixels[:-_DIGITS_TEST], labels[:-_DIGITS_TEST], pixels[-_DIGITS_TEST:], labels[-_DIGITS_TEST:], 10)


def _load_npz(path: Path) -> Dataset:
    if not path.is_file():
        raise DataError(f"dataset: no file at {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in _NPZ_KEYS if key not in archive]
            if missing:
                raise DataError(f"dataset: {path} has no {', '.join(missing)}; it needs {', '.join(_NPZ_KEYS)}")
            x_train, y_train, x_test, y_test = (archive[key] for key in _NPZ_KEYS)
    except (OSError, ValueError) as error:
        raise DataError(f"dataset: {path} cannot be read: {error}") from error
    for images, labels, part in ((x_train, y_train, "train"), (x_test, y_test, "test")):
        if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)):
            raise DataError(
                f"dataset: x_{part} of {path} is {images.dtype} {images.shape}; "
                "uint8 (n, h, w) or (n, h, w, 3) is needed"
            )
        if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
            raise DataError(f"dataset: y_{part} of {path} must be {len(images)} integers from 0 on")
    if len(x_train) == 0 or len(x_test) == 0:
        raise DataError(f"dataset: {path} holds no training or no test images")
    classes = int(max(y_train.max(), y_test.max())) + 1
    return Dataset(x_train, y_train.astype(np.int64), x_test, y_test.astype(np.int64), classes)


def _balanced(labels: NDArray[np.int64], classes: int, limit: int) -> NDArray[np.int64]:
    """Positions of the first ``limit / classes`` images of each class, in file order."""
    if limit == 0 or limit >= len(labels):
        return np.arange(len(labels))
    shares = np.full(classes, limit // classes)
    shares[: limit % classes] += 1
    kept = [np.flatnonzero(labels == label)[:share] for label, share in enumerate(shares)]
    return np.sort(np.concatenate(kept))
