"""Forms of a fine-tuned model as one file: what of the run's model goes into it, and how a network is made of it.

A method lists its forms in `deltamask_server.rounds.RoundStrategy.files`; what surrounds them, whatever the form, is in
`deltamask_server.tools.finetuned`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import ModelError
from common.models.heads import Head

__all__ = ["Content", "Layout", "ModelForm", "bits_of", "by_tensor"]

Layout = Sequence[tuple[str, tuple[int, ...]]]
"""Name and shape of each masked tensor, in the order of the flat vector."""


@dataclass(frozen=True)
class Content:
    """What goes into the file."""

    tensors: dict[str, torch.Tensor]
    head: Head
    metadata: dict[str, str] = field(default_factory=dict)


class ModelForm(ABC):
    """One form of the file. Tensors of it are named ``kind/NAME``, by the masked tensor that they belong to."""

    name: ClassVar[str]
    """As ``deltamask export --form`` and the file's metadata have it; no two methods share one."""
    about: ClassVar[str]
    """What it holds and what that costs, in a few words."""

    @abstractmethod
    def write(
        self, model: Mapping[str, NDArray[Any]], head: Head, layout: Layout, config: Mapping[str, Any]
    ) -> Content:
        """Make the file's content.

        Parameters
        ----------
        model
            The tensors that the run's strategy has kept (`RoundStrategy.tensors`).
        head
            The run's head.
        layout
            Of the backbone.
        config
            The run config, by its keys.

        Raises
        ------
        ModelError
            If the backbone has another number of masked weights than the run.
        """

    @abstractmethod
    def changed(
        self, weight: torch.Tensor, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], name: str
    ) -> torch.Tensor:
        """What a frozen weight becomes, in its shape.

        Parameters
        ----------
        weight
            Float32, on the CPU.
        tensors, metadata
            Of the file.
        name
            The masked tensor's.

        Raises
        ------
        KeyError, ValueError, RuntimeError
            If the file lacks something, or does not fit.
        """


def by_tensor(flat: NDArray[Any], layout: Layout) -> Iterator[tuple[str, tuple[int, ...], NDArray[Any]]]:
    """Name and shape of each masked tensor, and its part of a flat vector; raises ModelError."""
    sizes = [prod(shape) for _, shape in layout]
    if sum(sizes) != len(flat):
        raise ModelError(f"the run has {len(flat):,} masked weights, the backbone {sum(sizes):,}")
    for (name, shape), part in zip(layout, np.split(flat, np.cumsum(sizes)[:-1]), strict=True):
        yield name, shape, part


def bits_of(packed: torch.Tensor, count: int) -> NDArray[np.bool_]:
    """Bits that `numpy.packbits` packed, bool ``(count,)``."""
    return np.unpackbits(packed.numpy(), count=count).view(np.bool_)
