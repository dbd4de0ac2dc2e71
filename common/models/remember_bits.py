"""What autograd keeps of masked weights: one byte a weight instead of a copy.

The backward pass of a linear layer or convolution needs its weight, so autograd keeps ``w * m`` of every layer until
then: as much again as the masked weights themselves. Here it keeps the mask bits and a reference to the frozen w, which
is in memory anyway, and the product is made again when it is asked for: the same multiplication, so the same bits.
Saved-tensor hooks do this for whatever operation uses the weight (our choice).
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

__all__ = ["RememberBits"]


@dataclass(frozen=True)
class _Product:
    """A view of ``weight * mask``, which is made when it is needed."""

    weight: torch.Tensor
    mask: torch.Tensor
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def compute(self) -> torch.Tensor:
        return (self.weight * self.mask).as_strided(self.size, self.stride, self.offset)


class RememberBits:
    """While ``model`` runs with gradients, autograd keeps noted products as weight and mask.

    Parameters
    ----------
    model
        The module whose calls this holds for.
    """

    def __init__(self, model: nn.Module) -> None:
        self._products: dict[int, tuple[weakref.ref[torch.Tensor], torch.Tensor, torch.Tensor]] = {}
        self._running: list[saved_tensors_hooks] = []
        model.register_forward_pre_hook(self._begin)
        model.register_forward_hook(self._end, always_call=True)

    def note(self, product: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor) -> None:
        """Say that ``product`` is ``weight * mask``, bit for bit; neither factor may change before the backward pass.

        Parameters
        ----------
        product, weight
            Floats of one shape; ``weight`` is frozen.
        mask
            bool or int8 (signs), of the same shape.
        """
        if self._running:
            self._products[_address(product)] = weakref.ref(product), weight, mask

    def _begin(self, *_: Any) -> None:
        hooks = saved_tensors_hooks(self._pack, _unpack)
        hooks.__enter__()
        self._running.append(hooks)

    def _end(self, *_: Any) -> None:
        if self._running:
            self._running.pop().__exit__()
            self._products.clear()

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor | _Product:
        noted = self._products.get(_address(tensor))
        # A product that is gone may have left its address to another tensor; one that lives has it to itself.
        if noted is None or noted[0]() is None:
            return tensor
        return _Product(noted[1], noted[2], tensor.size(), tensor.stride(), int(tensor.storage_offset()))


def _unpack(saved: torch.Tensor | _Product) -> torch.Tensor:
    return saved.compute() if isinstance(saved, _Product) else saved


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
