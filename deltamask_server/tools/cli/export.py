"""``deltamask export``: the model of a run as one file to carry away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from deltamask_server.tools.cli.output import fail

__all__ = ["export"]


def export(
    run: Annotated[Path, typer.Argument(help="A run's folder, for instance runs/latest.", show_default=False)],
    form: Annotated[
        str | None,
        typer.Option(
            help="mean: theta, two bytes a masked weight, most accurate. mask: one bit a masked weight. signs, of "
            "hidenseek: two bits a masked weight. Default: the first that the run's method has.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; default: RUN/FORM.safetensors.", show_default=False)
    ] = None,
) -> None:
    """Write the fine-tuned model of a run as a .safetensors file, for `deltamask predict` and load_finetuned.

    Exit status 1 if the folder holds no finished run, or one of a method whose model has no such form.
    """
    from safetensors import SafetensorError, safe_open

    from common.errors import DeltaMaskError
    from common.methods import METHODS
    from common.models.heads import Head
    from deltamask_server.tools.finetuned import Place, needed, write_finetuned

    source = run / "model.safetensors"
    try:
        with safe_open(source, "np") as file:
            about = file.metadata() or {}
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        config = json.loads(about["config"])
        method = METHODS[config["method"]]
        if not method.exports:
            able = ", ".join(name for name, other in METHODS.items() if other.exports)
            fail(f"{source}: a run of the method {method.name}, whose model has no such file; those of {able} have", 1)
        what = form or method.exports[0]
        if what not in method.exports:
            fail(f"--form {what}: the method {method.name} has {', '.join(method.exports)}", 2)
        place: Place = {
            "backbone": about["backbone"],
            "image_size": config["image-size"],
            "masked_blocks": config["masked-blocks"],
            "weights": config["weights"],
            "digest": about["backbone_digest"],
            "classes": tuple(json.loads(about.get("classes", "[]"))),
        }
        target = out or run / f"{what}.safetensors"
        head = Head(tensors.pop("head.weight"), tensors.pop("head.bias"))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        fail(f"{source}: {type(error).__name__}: {error}; a finished run leaves this file", 1)
    try:
        count = write_finetuned(target, what, tensors, head, config, **place)
    except (KeyError, ValueError, DeltaMaskError) as error:  # not whole, or its backbone cannot be had here
        fail(f"{source}: cannot be exported: {type(error).__name__}: {error}", 1)
    except (OSError, SafetensorError) as error:  # what safetensors makes of a full disk, or of a missing folder
        fail(f"{target}: cannot be written ({error})", 2)
    typer.echo(f"{target}: {target.stat().st_size:,} bytes, {what} of {count:,} masked weights; {needed(place)}")
