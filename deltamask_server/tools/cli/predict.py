"""``deltamask predict``: what a fine-tuned model says about images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from deltamask_server.tools.cli.output import fail

__all__ = ["predict"]


def predict(
    model: Annotated[Path, typer.Argument(help="What `deltamask export` wrote.", show_default=False)],
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
    weights: Annotated[
        str | None,
        typer.Option(
            help="Where the frozen weights are, as in the run config: default, random:SEED, or a file. Default: where "
            "the run had them; only a file must be named.",
            show_default=False,
        ),
    ] = None,
    pixel_range: Annotated[
        str,
        typer.Option(
            help="What is black and white in images of more than 8 bits, as in the run config: auto, or 0..4095."
        ),
    ] = "auto",
    top: Annotated[int, typer.Option(min=1, help="Classes to print for each image.")] = 3,
    device: Annotated[str, typer.Option(help="A torch device.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line for each image.")] = False,
) -> None:
    """Name what images show: the most probable classes of each, with their probabilities.

    Exit status 1 if the model cannot be loaded or an image cannot be read; the others are still named.
    """
    from common.data.pixel_range import read_pixel_range
    from common.errors import DeltaMaskError, brief
    from deltamask_server.tools.finetuned import read_finetuned

    try:
        limits = read_pixel_range(pixel_range)
    except ValueError:
        fail(f"--pixel-range {pixel_range}: choose auto, or two numbers as in 0..4095, the lower one first", 2)
    try:
        tuned = read_finetuned(model, weights, device)
    except DeltaMaskError as error:
        fail(str(error), 1)
    except (RuntimeError, AssertionError) as error:  # torch has no such device, or was built without
        fail(f"--device {device}: {brief(error)}", 2)
    unread = 0
    width = max(len(str(path)) for path in images)
    for path in images:
        try:
            found = tuned.classify(path, top, limits)
        except Exception as error:  # Pillow raises many types for damaged files
            typer.echo(f"Error: {path}: cannot be read: {type(error).__name__}: {error}", err=True)
            unread += 1
            continue
        if as_json:
            typer.echo(json.dumps({"image": str(path), "classes": [{"name": n, "probability": p} for n, p in found]}))
        else:
            typer.echo(f"{path!s:{width}}   " + "   ".join(f"{name} {100 * p:.1f} %" for name, p in found))
    if unread:
        raise typer.Exit(1)
