"""One split of a dataset: labels are at hand, images are read when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.data.inventory import Inventory
from common.errors import DataError

__all__ = ["Images", "Loaded", "Reader", "Split", "numbered", "part_identity", "split_of_arrays"]


class Images(NamedTuple):
    """Those of some wanted images that can be read."""

    pixels: NDArray[np.uint8]
    """``(k, height, width)`` or ``(k, height, width, 3)``, in memory or mapped into it."""
    kept: NDArray[np.int64]
    """Which of the wanted ones they are, ``(k,)`` ascending."""
    identity: bytes
    """Names these images without their pixels having been looked at: other images have another one."""


Reader = Callable[[NDArray[np.int64]], Images]
"""From positions ``(m,)`` in a split to those images that can be read."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """Images in memory, or mapped into it: uint8 ``(n, height, width)`` or ``(n, height, width, 3)``."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    """Classes ``(n,)``."""
    broken: int
    """Images that could not be read and were left out."""
    identity: bytes
    """Names these images, by files and positions: other images, or a changed file, have another one."""


@dataclass(frozen=True, eq=False)
class Split:
    """Labels, the names behind them, and how to get at the images."""

    labels: NDArray[np.int64]
    """``(n,)``, each below the number of classes."""
    classes: tuple[str, ...]
    read: Reader
    numbered: bool = False
    """The source knows classes by number only; their names are the digits."""
    inventory: Inventory | None = None
    """What became of each file; of folders."""

    def load(self, positions: NDArray[np.int64]) -> Loaded:
        """Read the images at some positions."""
        images = self.read(positions)
        kept = images.kept
        return Loaded(images.pixels, self.labels[positions][kept], len(positions) - len(kept), images.identity)

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


def part_identity(whole: bytes, positions: NDArray[np.int64]) -> bytes:
    """Name some of the images that have a name together.

    Parameters
    ----------
    whole
        Identity of all.
    positions
        Those chosen of them, int64 ``(m,)``.

    Returns
    -------
    16 bytes.
    """
    key = hashlib.blake2b(whole, digest_size=16)
    key.update(np.ascontiguousarray(positions, dtype="<i8").data)
    return key.digest()


def split_of_arrays(images: NDArray[np.uint8], labels: NDArray[np.int64], classes: int, identity: bytes) -> Split:
    """Make a split of arrays, mapped or in memory, whose classes have numbers only.

    Parameters
    ----------
    images
        uint8 ``(n, height, width)`` or ``(n, height, width, 3)``.
    labels
        ``(n,)``, each below ``classes``.
    classes
        Number of classes.
    identity
        Names the arrays.
    """

    def read(positions: NDArray[np.int64]) -> Images:
        return Images(images[positions], np.arange(len(positions)), part_identity(identity, positions))

    return Split(labels, numbered(classes), read, numbered=True)
