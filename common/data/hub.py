"""Datasets of the Hugging Face hub, through flwr-datasets."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.catalogue import HUB, HubDataset
from common.data.encoded import Encoded, decode_all
from common.data.pixel_range import PixelRange
from common.data.split import Images, Split, numbered
from common.errors import DataError, brief
from common.extras import require
from common.files import CACHE_BYTES, file_identity

__all__ = ["open_hub"]

_PROBE_SECONDS = 5.0


def open_hub(
    name: str,
    part: str,
    side: int,
    cache: Path,
    limit_bytes: int = CACHE_BYTES,
    pixel_range: PixelRange | None = None,
) -> Split:
    """Download a dataset, or find it in the cache of Hugging Face; images are decoded when they are asked for.

    Parameters
    ----------
    name
        A key of `common.data.catalogue.HUB`.
    part
        ``train`` or ``test``.
    side, cache, limit_bytes, pixel_range
        See `common.data.encoded.decode_all`; ``side`` for datasets without a size of their own.

    Raises
    ------
    DataError
        If it cannot be had, within seconds where the hub cannot be reached, or has other columns than the table says.
    """
    entry = HUB[name]
    rows = _rows(name, entry, part)
    features = rows.features
    if not {entry.image, entry.label} <= set(features):
        raise DataError(
            f"dataset = {name!r}: {entry.id} has columns {', '.join(sorted(features))}, not {entry.image} and "
            f"{entry.label}; its layout has changed. {_elsewhere(entry)}"
        )
    labels = np.asarray(rows[entry.label], dtype=np.int64)
    if len(labels) == 0 or labels.min() < 0:
        raise DataError(f"dataset = {name!r}: {entry.id} has no {part} images, or some without a label")
    names = getattr(features[entry.label], "names", None)
    classes = numbered(int(labels.max()) + 1) if names is None else tuple(names)

    identity = _identity(rows, entry.image)

    def read(positions: NDArray[np.int64]) -> Images:
        items = [_encoded(rows, int(position), entry.image, identity) for position in positions]
        return decode_all(items, entry.side or side, cache, entry.transposed, limit_bytes, pixel_range)

    return Split(labels, classes, read, numbered=names is None)


def _rows(name: str, entry: HubDataset, part: str) -> Any:
    """The rows of a split, images as encoded bytes."""
    # Imported here: it takes seconds, and other sources do without.
    hub = require("flwr_datasets", "hub", f"dataset = {name!r}")
    datasets = require("datasets", "hub", f"dataset = {name!r}")

    if not Path(entry.id).is_dir() and not datasets.config.HF_HUB_OFFLINE:
        _require_hub(name, entry)
    try:
        data = hub.FederatedDataset(
            dataset=entry.id,
            subset=entry.config,
            preprocessor={"train": entry.train, "test": entry.test},
            partitioners={},
            shuffle=False,
        )
        rows = data.load_split(part)
        return rows.cast_column(entry.image, datasets.Image(decode=False)) if entry.image in rows.features else rows
    except Exception as error:  # datasets, its hub client and its readers raise many types
        raise DataError(
            f"dataset = {name!r}: {entry.id} cannot be loaded: {brief(f'{type(error).__name__}: {error}')}. "
            f"{_elsewhere(entry)}"
        ) from error


def _require_hub(name: str, entry: HubDataset) -> None:
    """Ask once, with a short patience: the hub's client itself tries again for half a minute."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_PROBE_SECONDS)
    except Exception as error:  # of requests or of httpx, by the client's version
        raise DataError(
            f"dataset = {name!r}: {constants.ENDPOINT} cannot be reached ({brief(error)}). {_elsewhere(entry)}"
        ) from error


def _elsewhere(entry: HubDataset) -> str:
    return (
        f"Without the hub: where there is a network, download the dataset {entry.id}, save it as an .npz file or as a "
        "folder with train/CLASS/ and test/CLASS/, copy it here, and set dataset = 'npz:PATH' or 'folder:PATH'. If it "
        "is in the cache of Hugging Face already, set HF_HUB_OFFLINE=1 in the environment."
    )


def _identity(rows: Any, column: str) -> bytes:
    """What the rows are, without reading them: the files that `datasets` has made of the download, and the name that it
    has for what was done with them since (cast, joined).
    """
    files = b"".join(file_identity(Path(file["filename"])) for file in rows.cache_files)
    return f"{rows._fingerprint}/{column}/".encode() + files


def _encoded(rows: Any, position: int, column: str, identity: bytes) -> Encoded:
    def content() -> bytes:
        value = rows[position][column]
        return value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()

    return Encoded(f"image {position}", f"{position}/".encode() + identity, lambda: BytesIO(content()))
