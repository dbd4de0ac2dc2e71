"""The model of a run of HideNseek as one file: which weights are kept, and their signs."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from common.methods.hidenseek.subnetwork import Magnitudes, Subnetwork
from common.models.heads import HEADS, Head
from deltamask_server.model_form import Content, Layout, ModelForm, bits_of, by_tensor

__all__ = ["SignsForm"]


class SignsForm(ModelForm):
    """``kept/NAME`` and ``sign/NAME``: uint8, as bits, which of the n weights of the tensor NAME pruning has kept, and
    which of them have the sign +1. Metadata ``magnitudes``: ``own`` or ``constant``.
    """

    name: ClassVar[str] = "signs"
    about: ClassVar[str] = "of hidenseek: two bits a masked weight"

    def write(
        self, model: Mapping[str, NDArray[Any]], head: Head, layout: Layout, config: Mapping[str, Any]
    ) -> Content:
        """Signs by tensor; a head that was not fitted has its own."""
        sizes = tuple(prod(shape) for _, shape in layout)
        signs_head, magnitudes = not HEADS[config["head"]].fitted, config["sign-magnitudes"]
        segments = sizes + (head.weight.size,) * signs_head
        subnetwork = Subnetwork.unchecked(model["subnetwork"].tobytes(), segments)
        signs = subnetwork.spread(model["signs"].astype(np.float32) * 2 - 1)
        tail, rest = np.split(signs, [sum(sizes)])
        if signs_head:
            kept = Subnetwork(rest != 0, (rest.size,))
            weight = kept.prepare(head.weight.ravel(), magnitudes) * rest
            head = Head(weight.reshape(head.weight.shape), head.bias)
        tensors: dict[str, torch.Tensor] = {}
        for name, _, part in by_tensor(tail, layout):
            tensors[f"kept/{name}"] = torch.from_numpy(np.packbits(part != 0))
            tensors[f"sign/{name}"] = torch.from_numpy(np.packbits(part > 0))
        return Content(tensors, head, {"magnitudes": magnitudes})

    def changed(
        self, weight: torch.Tensor, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], name: str
    ) -> torch.Tensor:
        """The weight as pruning has prepared it, with its sign."""
        kept, sign = (bits_of(tensors[f"{kind}/{name}"], weight.numel()) for kind in ("kept", "sign"))
        magnitudes: Magnitudes = "constant" if metadata["magnitudes"] == "constant" else "own"
        prepared = Subnetwork(kept, (weight.numel(),)).prepare(weight.flatten().numpy(), magnitudes)
        return torch.from_numpy(np.where(sign, prepared, -prepared)).view_as(weight)
