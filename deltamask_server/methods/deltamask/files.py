"""The model of a run of DeltaMask as one file: theta, or a mask of one bit a weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from common.models.heads import Head
from common.theta import ONE, probabilities
from deltamask_server.model_form import Content, Layout, ModelForm, bits_of, by_tensor

__all__ = ["MaskForm", "MeanForm"]


class MeanForm(ModelForm):
    """``theta/NAME``: uint16, probability x 65536 of each weight of the tensor NAME, in its shape."""

    name: ClassVar[str] = "mean"
    about: ClassVar[str] = "theta, two bytes a masked weight, most accurate"

    def write(
        self, model: Mapping[str, NDArray[Any]], head: Head, layout: Layout, config: Mapping[str, Any]
    ) -> Content:
        """Theta by tensor."""
        return Content(
            {
                f"theta/{name}": torch.from_numpy(part.astype(np.int32)).to(torch.uint16).reshape(shape)
                for name, shape, part in by_tensor(model["theta"], layout)
            },
            head,
        )

    def changed(
        self, weight: torch.Tensor, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], name: str
    ) -> torch.Tensor:
        """The weight times theta."""
        return weight * torch.from_numpy(probabilities(tensors[f"theta/{name}"].numpy())).view_as(weight)


class MaskForm(ModelForm):
    """``mask/NAME``: uint8, ceil(n / 8) bytes, the bits [theta >= 1/2] of its n weights, the first one highest."""

    name: ClassVar[str] = "mask"
    about: ClassVar[str] = "one bit a masked weight"

    def write(
        self, model: Mapping[str, NDArray[Any]], head: Head, layout: Layout, config: Mapping[str, Any]
    ) -> Content:
        """Bits by tensor."""
        parts = by_tensor(model["theta"], layout)
        return Content(
            {f"mask/{name}": torch.from_numpy(np.packbits(part >= ONE // 2)) for name, _, part in parts}, head
        )

    def changed(
        self, weight: torch.Tensor, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], name: str
    ) -> torch.Tensor:
        """The weight, or 0."""
        mask = bits_of(tensors[f"mask/{name}"], weight.numel()).astype(np.float32)
        return weight * torch.from_numpy(mask).view_as(weight)
