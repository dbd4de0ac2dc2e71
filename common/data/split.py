"""One split of a dataset: labels are at hand, images are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError

__all__ = ["Loaded", "Reader", "Split", "numbered"]

Reader = Callable[[NDArray[np.int64]], tuple[NDArray[np.uint8], NDArray[np.int64]]]
"""From positions ``(m,)`` in a split to the images that can be read, uint8 ``(k, height, width)`` or
``(k, height, width, 3)``, and which of the ``m`` they are, int64 ``(k,)`` ascending."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """Images in memory, or mapped into it: uint8 ``(n, height, width)`` or ``(n, height, width, 3)``."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    """Classes ``(n,)``."""
    broken: int
    """Images that could not be read and were left out."""


@dataclass(frozen=True, eq=False)
class Split:
    """Labels, the names behind them, and how to get at the images."""

    labels: NDArray[np.int64]
    """``(n,)``, each below the number of classes."""
    classes: tuple[str, ...]
    read: Reader
    numbered: bool = False
    """The source knows classes by number only; their names are the digits."""

    def load(self, positions: NDArray[np.int64]) -> Loaded:
        """Read the images at some positions."""
        images, kept = self.read(positions)
        return Loaded(images, self.labels[positions][kept], len(positions) - len(kept))

    def balanced(self, limit: int) -> NDArray[np.int64]:
        """Positions of the first ``limit / classes`` images of each class, ascending; 0 is all."""
        if limit == 0 or limit >= len(self.labels):
            return np.arange(len(self.labels))
        shares = np.full(len(self.classes), limit // len(self.classes))
        shares[: limit % len(self.classes)] += 1
        kept = [np.flatnonzero(self.labels == label)[:share] for label, share in enumerate(shares)]
        return np.sort(np.concatenate(kept))

    def agreed(self, classes: tuple[str, ...], source: str) -> Split:
        """The same images under the labels of a run.

        Parameters
        ----------
        classes
            The run's classes: the server defines them, label ``i`` is ``classes[i]``. None of them need be here.
        source
            Where the split is from, for the error.

        Raises
        ------
        DataError
            If there is a class here that the run does not have.
        """
        if self.numbered:
            if len(self.labels) and int(self.labels.max()) >= len(classes):
                raise DataError(
                    f"{source}: label {self.labels.max()}, but the classes of this run are 0 .. {len(classes) - 1}"
                )
            return replace(self, classes=classes)
        here = [self.classes[label] for label in np.unique(self.labels)]
        if unknown := [name for name in here if name not in classes]:
            shown = ", ".join(classes[:20]) + (f" and {len(classes) - 20} more" if len(classes) > 20 else "")
            raise DataError(
                f"{source}: unknown {'classes' if len(unknown) > 1 else 'class'} {', '.join(map(repr, unknown))}. This "
                f"run has those of the server's dataset: {shown}. Rename, move or remove what is not one of them."
            )
        to_run = np.array([classes.index(name) if name in classes else -1 for name in self.classes], dtype=np.int64)
        return replace(self, labels=to_run[self.labels], classes=classes)


def numbered(count: int) -> tuple[str, ...]:
    """Names of classes that have none."""
    return tuple(str(number) for number in range(count))
