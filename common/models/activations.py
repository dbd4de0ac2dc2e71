"""Prefix activations: what the frozen blocks below the masked ones make of each image, computed once.

They are kept as bfloat16, on disk (a deployed client is a new process in every round), in memory, or not at all where
neither has room. The file is named by what it depends on (frozen weights, split, input size, views, the images
themselves), so a stale file is never read. Those used longest ago are removed when there are too many.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from common.files import CACHE_BYTES, evict, kept_array, replacing
from common.models.backbone import Backbone
from common.models.views import PLAIN, Views

__all__ = ["Activations", "Keep", "Progress"]

Keep = Literal["disk", "memory", "none"]
"""Where activations are kept."""
Progress = Callable[[int, int], None]
"""Hears how many of how many pictures are done."""


class Activations:
    """Prefix outputs of one client's images, or of the test images, by batch.

    Parameters
    ----------
    backbone
        Its prefix is run, its digest names the file.
    images
        uint8 ``(n, height, width)`` or ``(n, height, width, 3)``.
    keep
        ``disk``: a memory-mapped file in ``folder``; where it cannot be written, as ``memory``. ``none``: computed
        again for every batch.
    folder
        The cache folder of ``disk``.
    batch_size
        Images in a forward pass of the prefix, while the cache is filled.
    views
        Which pictures there are of each image.
    precision
        What the prefix computes in: float32, or bfloat16 by autocast.
    progress
        Called after each batch while the cache is filled.
    identity
        Names the images (`common.data.Loaded.identity`): a file that is there already is then found without reading
        them. None: the name is made from all their pixels.
    limit_bytes
        Size of all activations that are kept in ``folder``.
    """

    def __init__(
        self,
        backbone: Backbone,
        images: NDArray[np.uint8],
        *,
        keep: Keep = "disk",
        folder: Path | None = None,
        batch_size: int = 250,
        views: Views = PLAIN,
        precision: torch.dtype = torch.float32,
        progress: Progress = lambda done, of: None,
        identity: bytes | None = None,
        limit_bytes: int = CACHE_BYTES,
    ) -> None:
        self._backbone, self._images, self._views, self._batch_size = backbone, images, views, batch_size
        self._precision, self._progress = precision, progress
        self._identity, self._limit_bytes = identity, limit_bytes
        self.device = next(backbone.tail.parameters()).device
        self._stored: NDArray[np.uint16] | None = None  # the bits of bfloat16, which NumPy does not have
        if keep != "none" and len(images):
            self._stored = self._on_disk(folder) if keep == "disk" and folder is not None else self._in_memory()

    def __len__(self) -> int:
        """Images."""
        return len(self._images)

    @property
    def views(self) -> int:
        """Pictures of each image."""
        return self._views.count

    def batch(self, index: NDArray[np.int64], view: NDArray[np.int64] | None = None) -> torch.Tensor:
        """Prefix outputs of some images.

        Parameters
        ----------
        index
            Positions, int64 ``(b,)``.
        view
            The picture of each, int64 ``(b,)``; None: the images themselves.

        Returns
        -------
        float32 ``(b, ...)`` on the backbone's device; values are rounded to bfloat16, kept or not.
        """
        if self._stored is not None:
            kept = self._stored[0 if view is None else view, index]
            return torch.from_numpy(np.ascontiguousarray(kept)).view(torch.bfloat16).to(self.device).float()
        if view is None:
            return self._prefix(self._views.draw(self._images[index], 0, 0, self._backbone.spec)).float()
        pictures = [
            self._views.draw(self._images[i : i + 1], int(i), int(v), self._backbone.spec)
            for i, v in zip(index, view, strict=True)
        ]
        return self._prefix(torch.cat(pictures)).float()

    def batches(self, batch_size: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """All images themselves, in order: positions and prefix outputs."""
        for start in range(0, len(self), batch_size):
            index = np.arange(start, min(start + batch_size, len(self)))
            yield slice(start, start + len(index)), self.batch(index)

    @torch.no_grad()
    def _prefix(self, pictures: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == torch.bfloat16):
            out: torch.Tensor = self._backbone.prefix(pictures.to(self.device))
        return out.to(torch.bfloat16)

    def _computed(self) -> Iterator[NDArray[np.uint16]]:
        """Every view of every image, view by view, a batch at a time."""
        n, done = len(self._images), 0
        for view in range(self._views.count):
            for start in range(0, n, self._batch_size):
                images = self._images[start : start + self._batch_size]
                values = self._prefix(self._views.draw(images, start, view, self._backbone.spec))
                done += len(images)
                self._progress(done, n * self._views.count)
                bits: NDArray[np.uint16] = values.cpu().view(torch.uint16).numpy()
                yield bits

    def _in_memory(self) -> NDArray[np.uint16]:
        values = np.concatenate(list(self._computed()))
        return values.reshape(self._views.count, len(self._images), *values.shape[1:])

    def _on_disk(self, folder: Path) -> NDArray[np.uint16]:
        path = folder / f"{self._key()}.npy"
        stored = kept_array(path)
        if stored is None:
            try:
                self._write(path)
            except OSError:  # read-only or full disk: the file saves time, nothing depends on it
                return self._in_memory()
            evict(folder, self._limit_bytes, path)
            stored = kept_array(path)
        return self._in_memory() if stored is None else stored  # another process may have removed it already

    def _key(self) -> str:
        key = hashlib.blake2b(digest_size=16)
        # Other batches and threads may round differently; the views but the first depend on their seed.
        batches = (self._images.shape, self._batch_size, torch.get_num_threads(), str(self._precision))
        key.update(self._backbone.digest + repr((batches, self._views if self._views.augmented else 0)).encode())
        if self._identity is None:
            key.update(np.ascontiguousarray(self._images).data)
        else:
            key.update(b"named" + self._identity)
        return key.hexdigest()

    def _write(self, path: Path) -> None:
        # Written, not mapped: a full disk must be an OSError here, where a mapping ends the process.
        with replacing(path) as temporary, temporary.open("wb") as file:
            for number, values in enumerate(self._computed()):
                if number == 0:
                    shape = (self._views.count, len(self._images), *values.shape[1:])
                    header = {"descr": "<u2", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(values.astype("<u2", copy=False).tobytes())
