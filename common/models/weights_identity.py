"""Which weights a backbone has, without reading them: for a digest that need not be computed in every message."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from common.digest import digest8
from common.files import file_identity, keep_array, kept_array
from common.models.letters import find_letters_weights
from common.models.presets import Source
from common.models.timm_models import timm_hub_file
from common.models.weight_files import DEFAULT, HubFile, find_weights, random_seed

__all__ = ["hub_file", "kept_digest", "weights_identity"]

_FORMAT = "digest-1"
"""Changes with how digests are computed."""
_LIBRARIES = ("torch", "timm", "open_clip_torch")


def weights_identity(source: Source, weights: str) -> bytes:
    """Tells weights from others: by their seed where they are drawn, else by the file that they come from.

    Parameters
    ----------
    source, weights
        Of a backbone that has been built, so that a file of the hub is on this machine.
    """
    seed = 0 if source.library == "plain" and weights == DEFAULT else random_seed(weights)
    if seed is not None:
        return f"random/{seed}/".encode()
    if source.library == "letters" and weights == DEFAULT:
        return file_identity(find_letters_weights())
    path = find_weights(weights, hub_file(source), str(source))
    return b"random/0/" if path is None else file_identity(path)


def hub_file(source: Source) -> HubFile | None:
    """Where the library keeps the weights of a backbone on the hub; None if nowhere."""
    if source.library == "timm":
        return timm_hub_file(source)
    if source.library == "open_clip":
        from common.models.open_clip_models import open_clip_hub_file  # its import takes seconds

        return open_clip_hub_file(source)
    return None


def kept_digest(asked: bytes, compute: Callable[[], bytes], cache: Path) -> bytes:
    """A digest that is computed once.

    Parameters
    ----------
    asked
        Names what it is of: `weights_identity`, and how they are used.
    compute
        Gives the 8 bytes.
    cache
        The digest stands in a small file below this folder, with a check sum. One that is damaged or cannot be written
        costs time only.
    """
    versions = []
    for library in _LIBRARIES:
        try:
            versions.append(version(library))
        except PackageNotFoundError:
            versions.append("")
    key = hashlib.blake2b(asked + repr((_FORMAT, versions)).encode(), digest_size=16).hexdigest()
    path = cache / "digests" / f"{key}.npy"
    found = kept_array(path)
    if found is not None:
        digest, check = found.tobytes()[:8], found.tobytes()[8:]
        if check == digest8(asked, digest):
            return digest
    digest = compute()
    with suppress(OSError):  # a read-only or full disk
        keep_array(path, np.frombuffer(digest + digest8(asked, digest), np.uint8))
    return digest
