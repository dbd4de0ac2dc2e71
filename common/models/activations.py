"""Prefix activations, computed once and kept on disk: a deployed client is a new process in every round.

The file is named by what it depends on (frozen weights, split, input size, the images themselves), so a stale file is
never read; it is written beside and then renamed, so a half-written one is never read either.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from common.models.backbone import Backbone
from common.models.input_spec import InputSpec

__all__ = ["cached_activations", "preprocess"]


def preprocess(images: NDArray[np.uint8], spec: InputSpec) -> torch.Tensor:
    """Raw images to network input.

    Parameters
    ----------
    images
        uint8 ``(n, height, width)`` or ``(n, height, width, 3)``.
    spec
        The backbone's input. Grey images are repeated to three channels, colour images weighted to grey (ITU-R 601),
        sides resized with an antialiased filter, by the backbone's interpolation.

    Returns
    -------
    float32 ``(n, channels, size, size)``, normalised.
    """
    x = torch.from_numpy(np.ascontiguousarray(images)).float() / 255
    x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
    if x.shape[1] == 3 and spec.channels == 1:
        x = (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    elif x.shape[1] == 1 and spec.channels == 3:
        x = x.expand(-1, 3, -1, -1)
    if x.shape[-2:] != (spec.size, spec.size):
        x = F.interpolate(x, size=(spec.size, spec.size), mode=spec.interpolation, antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (spec.mean, spec.std))
    return (x - mean) / std


def cached_activations(
    backbone: Backbone, images: NDArray[np.uint8], cache: Path, batch_size: int
) -> NDArray[np.float32]:
    """Prefix outputs of images, from the cache or computed now.

    Returns
    -------
    Read-only float32 memory map ``(n, ...)``, for Vision Transformers ``(n, tokens, width)``; a plain array when
    the cache folder cannot be written.
    """
    key = hashlib.blake2b(digest_size=16)
    key.update(backbone.digest + str((images.shape, batch_size, torch.get_num_threads())).encode())
    key.update(np.ascontiguousarray(images).data)
    path = cache / f"{key.hexdigest()}.npy"
    if not path.is_file():
        activations = _compute(backbone, images, batch_size)
        try:
            _write(path, activations)
        except OSError:  # read-only or full disk: the cache saves time, nothing depends on it
            return activations
    stored: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return stored


@torch.no_grad()
def _compute(backbone: Backbone, images: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    device = next(backbone.tail.parameters()).device
    parts = [
        backbone.prefix(preprocess(images[start : start + batch_size], backbone.spec).to(device)).cpu().numpy()
        for start in range(0, len(images), batch_size)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, 1, backbone.features), np.float32)


def _write(path: Path, activations: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, activations)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
