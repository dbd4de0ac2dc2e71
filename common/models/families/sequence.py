"""Every other model: one whose blocks run one after the other, which is checked instead of known.

The prefix is the model itself, stopped where the first masked block begins. The tail is the masked blocks, what such
models usually have behind them, and the model's own pooling. Whether that is the whole model is tried out on an image
when the backbone is loaded, so an architecture that does anything else is refused and never used wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from common.errors import ModelError, brief
from common.models.families.model_split import ModelSplit, cut, numbered_blocks
from common.models.input_spec import InputSpec

__all__ = ["split_sequence"]

_NAMES = ("blocks", "stages", "layers")
_BEHIND: tuple[tuple[str, ...], ...] = (
    (),
    ("norm",),
    ("norm_pre",),
    ("conv_head", "bn2"),
    ("norm", "act"),
    ("attnpool",),
)
"""What may stand between the last block and the pooling, by the names of timm and open_clip."""


class _Stop(Exception):
    def __init__(self, activations: torch.Tensor) -> None:
        self.activations = activations


class _Prefix(nn.Module):
    """The model up to the first masked block."""

    def __init__(self, model: nn.Module, first: nn.Module) -> None:
        super().__init__()
        self._model = (model, first)  # not as submodules: the masked blocks are the tail's

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        model, first = self._model

        def stop(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            raise _Stop(args[0])

        hook = first.register_forward_pre_hook(stop)
        try:
            model(images)
        except _Stop as stopped:
            return stopped.activations
        finally:
            hook.remove()
        raise ModelError("the backbone never calls its first masked block")


class _Tail(nn.Module):
    """The masked blocks with their further arguments, what stands behind them, and pooling."""

    def __init__(
        self, model: nn.Module, blocks: Sequence[nn.Module], further: Sequence[Any], behind: Sequence[str]
    ) -> None:
        super().__init__()
        self.blocks, self.further = nn.ModuleList(blocks), tuple(further)
        self.behind = nn.ModuleList(getattr(model, name) for name in behind)
        self.pool = getattr(model, "forward_head", nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block, (args, kwargs) in zip(self.blocks, self.further, strict=True):
            x = block(x, *args, **kwargs)
        for module in self.behind:
            x = module(x)
        features: torch.Tensor = self.pool(x)
        return features


def split_sequence(model: nn.Module, spec: InputSpec, masked_blocks: int) -> ModelSplit:
    """Split any model with a sequence of blocks (or of stages, which then count as blocks), if that can be done.

    Further arguments of blocks, such as rotary position embeddings, are taken from a forward pass: they may depend on
    the image's size but not on its content.

    Parameters
    ----------
    model, spec, masked_blocks
        As for `common.models.families.split_model`. On the meta device nothing can be compared but shapes.

    Raises
    ------
    ModelError
        If there is no such sequence, it has fewer blocks, or the parts are not the whole to 1e-5.
    """
    sequence = _sequence(model)
    blocks = cut(sequence, masked_blocks)
    modules = [block for _, block in blocks]
    device = next(model.parameters()).device
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(3, spec.channels, spec.size, spec.size, generator=rng, device="cpu").to(device)
    ways = [names for names in _BEHIND if all(isinstance(getattr(model, name, None), nn.Module) for name in names)]
    problems = []
    with torch.no_grad():
        whole = model(images[1:])
        for behind in ways:
            try:
                further = _further_arguments(model, modules, images[:1])
                split = ModelSplit(
                    _Prefix(model, modules[0]),
                    _Tail(model, modules, further, behind),
                    blocks,
                    len(sequence),
                    int(whole.shape[1]),
                )
                if _equal(split.tail(split.prefix(images[1:])), whole):
                    return split
            except Exception as error:  # another architecture may fail in any way
                problems.append(brief(f"{type(error).__name__}: {error}"))
    raise ModelError(
        f"a {type(model).__name__} cannot be split below {blocks[0][0]}: prefix and tail are not the whole network "
        f"({'; '.join([*problems, 'other values'])}); docs/backbones.md says which architectures can"
    )


def _sequence(model: nn.Module) -> list[tuple[str, nn.Module]]:
    for name in _NAMES:
        found = getattr(model, name, None)
        if isinstance(found, nn.Sequential | nn.ModuleList) and len(found):
            return numbered_blocks(name, found)
    stages = [(f"layer{i}", getattr(model, f"layer{i}", None)) for i in range(1, 5)]  # as ResNets have them
    named = [(name, stage) for name, stage in stages if isinstance(stage, nn.Module)]
    if len(named) == len(stages):
        return named
    raise ModelError(
        f"a {type(model).__name__} has no sequence of blocks or stages that is known; "
        "docs/backbones.md says which architectures have"
    )


def _further_arguments(model: nn.Module, blocks: Sequence[nn.Module], image: torch.Tensor) -> list[Any]:
    found: list[Any] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append((args[1:], kwargs))

    hooks = [block.register_forward_pre_hook(record, with_kwargs=True) for block in blocks]
    try:
        model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _equal(parts: torch.Tensor, whole: torch.Tensor) -> bool:
    if parts.shape != whole.shape or whole.ndim != 2:
        return False
    if whole.is_meta:
        return True
    return bool((parts - whole).abs().max() <= 1e-5 * whole.abs().max())
