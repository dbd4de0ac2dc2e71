"""Raw images to what a backbone wants to see."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from common.models.input_spec import InputSpec

__all__ = ["preprocess"]


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
    x = torch.from_numpy(np.array(images, order="C")).float() / 255  # a copy: images may be a read-only memory map
    x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
    if x.shape[1] == 3 and spec.channels == 1:
        x = (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    elif x.shape[1] == 1 and spec.channels == 3:
        x = x.expand(-1, 3, -1, -1)
    if x.shape[-2:] != (spec.size, spec.size):
        x = F.interpolate(x, size=(spec.size, spec.size), mode=spec.interpolation, antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (spec.mean, spec.std))
    return (x - mean) / std
