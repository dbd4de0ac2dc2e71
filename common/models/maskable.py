"""Which tensors of a block are masked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import nn

__all__ = ["MaskedTensor", "masked_tensors"]

_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
"""Linear maps of ``nn.MultiheadAttention`` (and of open_clip's own attention) that no Linear module holds."""


class MaskedTensor(NamedTuple):
    """A weight by its name in the whole network, and by its place."""

    name: str
    module: nn.Module
    attribute: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, output channels first."""
        return tuple(getattr(self.module, self.attribute).shape)


def masked_tensors(blocks: Iterable[tuple[str, nn.Module]]) -> list[MaskedTensor]:
    """List the masked tensors of blocks: weights of Linear and Conv2d modules, and packed projections of attention.

    Biases, norms, LayerScale and tables of relative positions are not masked: they are few, and the pre-trained
    function depends on each of them (paper: weights; the list is our choice).

    Parameters
    ----------
    blocks
        Names and modules.

    Returns
    -------
    In the order of the flat vector of d entries, part of what both sides must agree on.
    """
    return [tensor for name, block in blocks for tensor in _of_block(name, block)]


def _of_block(block_name: str, block: nn.Module) -> Iterator[MaskedTensor]:
    for name, module in block.named_modules(prefix=block_name):
        if isinstance(module, nn.Linear | nn.Conv2d):
            yield MaskedTensor(f"{name}.weight", module, "weight")
        for projection in _PROJECTIONS:
            if isinstance(getattr(module, projection, None), nn.Parameter):
                yield MaskedTensor(f"{name}.{projection}", module, projection)
