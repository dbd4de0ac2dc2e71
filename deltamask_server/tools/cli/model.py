"""``deltamask model``: what of a backbone is masked, and what it will cost, without its weights."""

from __future__ import annotations

import json
from math import prod
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltamask_server.tools.cli.output import fail

if TYPE_CHECKING:
    from deltamask_server.tools.outline import Outline

__all__ = ["model"]

_RATES = (0.01, 0.1)


def model(
    name: Annotated[
        str | None,
        typer.Argument(
            help="letters-vit, lenet, conv4, conv6, a preset, a model of timm, or open_clip:MODEL/TAG. Without: a "
            "table of the presets.",
            show_default=False,
        ),
    ] = None,
    image_size: Annotated[int, typer.Option(min=0, max=2048, help="Side of the input; 0 is the backbone's own.")] = 0,
    masked_blocks: Annotated[
        int, typer.Option(min=0, max=1000, help="Masked blocks, counted from the last; 0 is all.")
    ] = 5,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Load these too, as in the run config, and print the digest that server and clients must share.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a backbone: its blocks, the masked layers, d, where it is split, and its sizes on the wire.

    Exit status 1 if there is no such backbone, or it cannot be used.
    """
    from common.errors import DeltaMaskError
    from common.models.backbone import load_backbone
    from deltamask_server.tools.outline import outline, presets_table

    try:
        if name is None:
            typer.echo(presets_table())
            return
        found = outline(name, image_size, masked_blocks)
        digest = weights and load_backbone(name, weights, image_size, masked_blocks).digest.hex()
    except DeltaMaskError as error:
        fail(str(error), 1)
    if as_json:
        typer.echo(json.dumps(_figures(found) | ({"digest": digest} if digest else {}), indent=1))
        return
    lines = _lines(found) + ([("digest", digest)] if digest else [])
    width = max(len(name) for name, _ in lines)
    for title, value in lines:
        typer.echo(f"{title:{width}}   {value}")


def _lines(found: Outline) -> list[tuple[str, str]]:
    from deltamask_server.tools.outline import bytes_at

    spec, d = found.spec, found.d
    first, last = found.masked_blocks[0], found.masked_blocks[-1]
    blocks = first if first == last else f"{first} to {last}"
    shape = " x ".join(f"{side:,}" for side in found.activations)
    below = f"all below {first}; run once an image" if found.below else "nothing: the images themselves"
    masked = "all" if len(found.masked_blocks) == found.depth else f"the last {len(found.masked_blocks)}"
    width = max(len(name) for name, _ in found.tensors)
    shapes = {name: " x ".join(map(str, shape)) for name, shape in found.tensors}
    side = max(map(len, shapes.values()))
    return [
        ("model", f"{found.source} ({found.source.library})"),
        ("weights", _weights(found)),
        ("input", f"{spec.channels} x {spec.size} x {spec.size}, {spec.interpolation}"),
        ("mean, std", f"{_numbers(spec.mean)}; {_numbers(spec.std)}"),
        ("parameters", f"{found.parameters:,}, of which {found.masked_block_parameters:,} in masked blocks"),
        ("blocks", f"{found.depth}, masked: {masked}"),
        ("prefix", f"{below}, {shape} values ({2 * prod(found.activations):,} bytes) kept"),
        ("tail", f"{blocks}, and what follows: {found.features} features"),
        *(
            ("" if i else "masked layers", f"{name:{width}}  {shapes[name]:{side}}  {prod(shape):>10,}")
            for i, (name, shape) in enumerate(found.tensors)
        ),
        ("d", f"{d:,} masked weights"),
        ("on the wire", ", ".join(f"{bytes_at(d, rate):,} bytes at {rate} bpp" for rate in _RATES)),
        ("", f"({bytes_at(d, 32):,} as float32)"),
    ]


def _figures(found: Outline) -> dict[str, Any]:
    from deltamask_server.tools.outline import bytes_at

    return {
        "model": str(found.source),
        "hub": found.hub and {"repository": found.hub.repo, "file": found.hub.name},
        "input": {
            "channels": found.spec.channels,
            "size": found.spec.size,
            "mean": found.spec.mean,
            "std": found.spec.std,
            "interpolation": found.spec.interpolation,
        },
        "parameters": found.parameters,
        "masked_block_parameters": found.masked_block_parameters,
        "blocks": found.depth,
        "masked_blocks": found.masked_blocks,
        "activations": found.activations,
        "features": found.features,
        "masked_tensors": [{"name": name, "shape": shape} for name, shape in found.tensors],
        "d": found.d,
        "bytes": {str(rate): bytes_at(found.d, rate) for rate in _RATES},
    }


def _weights(found: Outline) -> str:
    if found.source.library == "letters":
        return "embedded"
    if found.source.library == "plain":
        return "random, from a seed (`random:SEED`)"
    return str(found.hub) if found.hub else "none on the hub that are known: name a tag or a file"


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
