"""A client's images, its own (``data`` of the node config) or its share of the run's dataset, what it holds out, and
test images of some classes.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.config.node import NodeConfig
from common.config.run import RunConfig
from common.data import Loaded, Split, is_local, open_split
from common.data.config import DirichletSection, PathologicalSection
from common.data.pixel_range import PixelRange
from common.data.split import part_identity
from common.errors import DataError
from common.uniforms import stream_seed
from deltamask_client.hold_out import hold_out
from deltamask_client.partition import partition_indices

__all__ = ["Part", "SiteImages", "check_source", "site_images", "test_images"]

_log = logging.getLogger("flwr")

Part = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images uint8 ``(n, height, width)`` or ``(n, height, width, 3)``, and classes int64 ``(n,)``."""


@dataclass(frozen=True, eq=False)
class SiteImages:
    """All images of one client, and which of them are held out."""

    classes: tuple[str, ...]
    """Of the run; a client need not have images of each."""
    all: Loaded
    trained: NDArray[np.int64]
    held_out: NDArray[np.int64]

    @property
    def broken(self) -> int:
        """Images that could not be read."""
        return self.all.broken

    @property
    def training(self) -> Part:
        """What the client trains on."""
        if len(self.held_out) == 0:
            return self.all.images, self.all.labels  # no copy: these may be mapped from the disk
        return self.all.images[self.trained], self.all.labels[self.trained]

    @property
    def validation(self) -> Part:
        """What it never trains on."""
        return self.all.images[self.held_out], self.all.labels[self.held_out]

    def identity(self, validation: bool) -> bytes:
        """Names the images of one of the two parts (`common.data.Loaded.identity`)."""
        return part_identity(self.all.identity, self.held_out if validation else self.trained)


def check_source(run: RunConfig, node: NodeConfig, classes: tuple[str, ...]) -> dict[str, int]:
    """Find out what would keep this client from training, before it takes part. Files and folders are looked at, no
    image is decoded; datasets of the hub may take a download and are not.

    Returns
    -------
    How many files of its own folder became what, as `common.messages.Hello.files`; empty for other sources. The log has
    it with examples.

    Raises
    ------
    DataError
        If the file or folder is missing, odd, or has a class that the run has not.
    """
    if is_local(node.data or run.data.dataset):
        split = _open(run, node, classes, side=1)
        if run.evaluation.personal_test and not node.data:
            _open_test(run.data.dataset, node.cache_path, classes, 1, run.data.black_and_white)
        if split.inventory is not None and (node.data or node.partition_id == 0):  # of what all share one is enough
            duplicates = split.inventory.duplicates()
            level = logging.WARNING if split.inventory.suspicious(duplicates) else logging.INFO
            _log.log(level, "%s: %s", _source(run, node), split.inventory.text(duplicates))
            return split.inventory.counts(duplicates) if node.data else {}
    return {}


# The clients of one run in a process: a simulation worker serves many in turn.
@functools.lru_cache(maxsize=64)
def site_images(run: RunConfig, node: NodeConfig, classes: tuple[str, ...], side: int) -> SiteImages:
    """Read a client's images.

    Parameters
    ----------
    run, node
        Configs of the run and of this client.
    classes
        Class list of the run; empty for that of this client's own copy of the dataset.
    side
        Side of the backbone's input, pixels.

    Raises
    ------
    DataError
        If they cannot be had, cannot be divided as the run config says, have a class that the run has not, or none of
        them can be read.
    """
    split = _open(run, node, classes, side)
    positions = split.balanced(run.data.train_limit)
    if not node.data:
        positions = positions[
            partition_indices(
                split.labels[positions],
                run.data.partitioner,
                node.num_partitions,
                node.partition_id,
                seed=run.rounds.seed,
                dirichlet_alpha=run[DirichletSection].dirichlet_alpha,
                classes_per_client=run[PathologicalSection].classes_per_client,
                cache=node.cache_path,
                limit_bytes=node.cache_limit_bytes,
            )
        ]
    loaded = split.load(positions)
    trained, held_out = hold_out(
        loaded.labels, run.data.validation_fraction, stream_seed(run.rounds.seed, 0, node.partition_id, "validation")
    )
    if len(trained) == 0:
        raise DataError(f"{_source(run, node)}: none of {len(positions)} images can be read")
    return SiteImages(split.classes, loaded, trained, held_out)


@functools.lru_cache(maxsize=16)
def test_images(
    dataset: str,
    limit: int,
    cache: Path,
    classes: tuple[str, ...],
    own: tuple[int, ...],
    side: int,
    pixel_range: PixelRange | None,
) -> Loaded:
    """Read those test images of a dataset that are of some classes; clients with the same classes share them.

    Parameters
    ----------
    dataset, limit, pixel_range
        As in the run config: the server tests on the same images, of all classes.
    cache
        Folder where decoded images and unpacked arrays are kept.
    classes
        Class list of the run.
    own
        The classes wanted, by number.
    side
        Side of the backbone's input, pixels.

    Raises
    ------
    DataError
        If the test images cannot be had, or have a class that the run has not.
    """
    split = _open_test(dataset, cache, classes, side, pixel_range)
    positions = split.balanced(limit)
    return split.load(positions[np.isin(split.labels[positions], own)])


def _open_test(dataset: str, cache: Path, classes: tuple[str, ...], side: int, pixel_range: PixelRange | None) -> Split:
    split = open_split(dataset, "test", side, cache, pixel_range=pixel_range)
    return split.agreed(classes, f"dataset = {dataset!r}") if classes else split


def _open(run: RunConfig, node: NodeConfig, classes: tuple[str, ...], side: int) -> Split:
    source, limit = node.data or run.data.dataset, node.cache_limit_bytes
    pixel_range = node.black_and_white if node.data else run.data.black_and_white
    split = open_split(
        source, "train", side, node.cache_path, own=bool(node.data), limit_bytes=limit, pixel_range=pixel_range
    )
    return split.agreed(classes, _source(run, node)) if classes else split


def _source(run: RunConfig, node: NodeConfig) -> str:
    return f"data = {node.data!r}" if node.data else f"dataset = {run.data.dataset!r}"
