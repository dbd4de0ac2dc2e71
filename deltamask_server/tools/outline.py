"""What a backbone consists of and what it will cost, from its architecture alone: no weights are needed or made."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

import torch
from torch import nn

from common.errors import ModelError, reason_of
from common.models.backbone import build_parts
from common.models.input_spec import InputSpec
from common.models.presets import PRESETS, Source, parse_name
from common.models.weight_files import RANDOM, HubFile
from common.models.weights_identity import hub_file

__all__ = ["Outline", "bytes_at", "outline", "presets_table"]


@dataclass(frozen=True)
class Outline:
    """A backbone at a glance."""

    source: Source
    hub: HubFile | None
    spec: InputSpec
    depth: int
    """Blocks of the whole network."""
    masked_blocks: tuple[str, ...]
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    """Masked tensors in the order of the flat vector: name and shape."""
    parameters: int
    """Of the whole network, without a classifier."""
    masked_block_parameters: int
    """Of the masked blocks: d, and biases, norms and so on."""
    activations: tuple[int, ...]
    """Shape of what the prefix makes of one image."""
    below: bool
    """Whether there is anything below the masked blocks; if not, the activations are the images."""
    features: int

    @property
    def d(self) -> int:
        """Masked weights in all."""
        return sum(prod(shape) for _, shape in self.tensors)


def outline(name: str, image_size: int = 0, masked_blocks: int = 5) -> Outline:
    """Outline a backbone; parameters and errors of `common.models.backbone.load_backbone`."""
    source = parse_name(name)
    try:
        with torch.device("meta"), torch.no_grad():
            model, spec, split, tensors = build_parts(name, RANDOM, image_size, masked_blocks, "meta")
            activations = split.prefix(torch.empty(1, spec.channels, spec.size, spec.size))
    except Exception as error:
        if isinstance(error, NotImplementedError) or isinstance(error.__cause__, NotImplementedError):
            # Some models compute with values while they are made or run, where there are shapes only.
            raise ModelError(f"backbone {name!r} cannot be outlined without weights: {reason_of(error)}") from error
        raise
    return Outline(
        source,
        hub_file(source),
        spec,
        split.depth,
        tuple(name for name, _ in split.blocks),
        tuple((tensor.name, tensor.shape) for tensor in tensors),
        _parameters(model),
        sum(_parameters(block) for _, block in split.blocks),
        tuple(activations.shape[1:]),
        not isinstance(split.prefix, nn.Identity),
        split.features,
    )


def bytes_at(d: int, bpp: float) -> int:
    """Bytes of d masked weights at a rate in bits per parameter, without the header."""
    return ceil(round(d * bpp / 8, 6))  # 0.1 has no exact double


def presets_table() -> str:
    """All presets as a Markdown table, as docs/backbones.md shows it."""
    rows = [
        "| preset | name in the library | input | blocks | parameters | d, last 5 blocks | bytes, 0.01 bpp | 0.1 bpp |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, source in PRESETS.items():
        found = outline(name)
        d = found.d
        rows.append(
            f"| `{name}` | `{source}` | {found.spec.size} px | {found.depth} | {found.parameters / 1e6:.1f} M "
            f"| {d:,} | {bytes_at(d, 0.01):,} | {bytes_at(d, 0.1):,} |"
        )
    return "\n".join(rows)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
