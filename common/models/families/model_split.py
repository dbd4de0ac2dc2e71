"""The two parts of a backbone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from common.errors import ModelError

__all__ = ["ModelSplit", "cut", "numbered_blocks"]


@dataclass(frozen=True, eq=False)
class ModelSplit:
    """A network in two parts: ``tail(prefix(images))`` is the whole, to the last bits of float32."""

    prefix: nn.Module
    """Images ``(n, channels, size, size)`` to activations, for instance tokens ``(n, tokens, width)``."""
    tail: nn.Module
    """Activations to features ``(n, features)``."""
    blocks: tuple[tuple[str, nn.Module], ...]
    """The blocks of the tail by their names in the whole network, in the order in which they run."""
    depth: int
    """Blocks of the whole network."""
    features: int
    """Length of the feature vector."""


def cut(blocks: Sequence[tuple[str, nn.Module]], masked_blocks: int) -> tuple[tuple[str, nn.Module], ...]:
    """The last of named blocks, or all of them.

    Parameters
    ----------
    blocks
        All blocks of the network.
    masked_blocks
        How many; 0 is all.

    Raises
    ------
    ModelError
        If there are fewer.
    """
    depth = len(blocks)
    if not 0 <= masked_blocks <= depth:
        raise ModelError(
            f"masked-blocks = {masked_blocks}: the backbone has {depth} blocks, {blocks[0][0]} and after (0 masks all)"
        )
    return tuple(blocks[depth - masked_blocks :] if masked_blocks else blocks)


def numbered_blocks(name: str, blocks: Iterable[nn.Module]) -> list[tuple[str, nn.Module]]:
    """Names for the members of an ``nn.Sequential`` or ``nn.ModuleList``."""
    return [(f"{name}.{i}", block) for i, block in enumerate(blocks)]
