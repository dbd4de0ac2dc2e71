"""The masked blocks' own parameters as one flat vector: what full fine-tuning of the same blocks trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.models.backbone import Backbone

__all__ = ["TailWeights"]


class TailWeights:
    """Weights, biases and norms of a backbone's tail, in the module's own order.

    Parameters
    ----------
    backbone
        Shared with masked training, which needs it frozen: change it within `borrowed` only.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        scores = {id(score) for score in backbone.masks.parameters()}
        named = [(name, p) for name, p in backbone.tail.named_parameters() if id(p) not in scores]
        self.parameters: list[nn.Parameter] = [p for _, p in named]
        # Masks are parametrisations, and torch keeps under this name what one stands before.
        self._masked = [name.startswith("parametrizations.") or ".parametrizations." in name for name, _ in named]

    @property
    def count(self) -> int:
        """Entries of the vector."""
        return sum(p.numel() for p in self.parameters)

    @property
    def masked(self) -> NDArray[np.bool_]:
        """Which entries are weights that ``deltamask`` masks, bool ``(count,)``: no biases, norms or tables."""
        sizes = [p.numel() for p in self.parameters]
        return np.repeat(np.array(self._masked, np.bool_), sizes)

    @torch.no_grad()
    def read(self) -> NDArray[np.float32]:
        """A copy of the vector, float32 ``(count,)``."""
        flat: NDArray[np.float32] = torch.cat([p.flatten() for p in self.parameters]).cpu().numpy()
        return flat

    @torch.no_grad()
    def write(self, flat: NDArray[np.float32]) -> None:
        """Overwrite the parameters."""
        parts = torch.split(torch.from_numpy(flat), [p.numel() for p in self.parameters])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.copy_(part.view_as(parameter))

    @contextmanager
    def borrowed(self, flat: NDArray[np.float32], trained: bool = False) -> Iterator[None]:
        """Use the tail unmasked with these weights, and put the frozen ones back at the end.

        Parameters
        ----------
        flat
            float32 ``(count,)``.
        trained
            Whether the parameters get gradients meanwhile.
        """
        frozen = self.read()
        self._backbone.masks.unmask()
        try:
            self.write(flat)
            for parameter in self.parameters:
                parameter.requires_grad_(trained)
            yield
        finally:
            for parameter in self.parameters:
                parameter.requires_grad_(False)
                parameter.grad = None
            self.write(frozen)
