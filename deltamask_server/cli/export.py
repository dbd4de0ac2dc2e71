"""``deltamask export``: the model of a run as one file to carry away."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deltamask_server.cli.output import fail

__all__ = ["export"]


class Form(StrEnum):
    """What stands for the mask."""

    mean = "mean"
    mask = "mask"


def export(
    run: Annotated[Path, typer.Argument(help="A run's folder, for instance runs/latest.", show_default=False)],
    form: Annotated[
        Form, typer.Option(help="mean: theta, two bytes a masked weight, most accurate. mask: one bit a masked weight.")
    ] = Form.mean,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; default: RUN/FORM.safetensors.", show_default=False)
    ] = None,
) -> None:
    """Write the fine-tuned model of a run as a .safetensors file, for `deltamask predict` and common.load_finetuned.

    Exit status 1 if the folder holds no finished run of the method deltamask.
    """
    from safetensors import SafetensorError, safe_open

    from common.errors import ModelError
    from common.finetuned import write_finetuned
    from common.models import Head

    source, target = run / "model.safetensors", out or run / f"{form.value}.safetensors"
    try:
        with safe_open(source, "np") as file:
            about = file.metadata() or {}
            if "theta" not in file.keys():  # noqa: SIM118 - no mapping
                fail(f"{source}: no theta in it: export is for runs of the method deltamask", 1)
            theta = file.get_tensor("theta")
            head = Head(file.get_tensor("head.weight"), file.get_tensor("head.bias"))
        config = json.loads(about["config"])
        write_finetuned(
            target,
            form.value,
            theta,
            head,
            backbone=about["backbone"],
            image_size=config["image-size"],
            masked_blocks=config["masked-blocks"],
            digest=about["backbone_digest"],
            classes=tuple(json.loads(about.get("classes", "[]"))),
        )
    except (OSError, SafetensorError, KeyError, ValueError, ModelError) as error:
        fail(f"{source}: {type(error).__name__}: {error}; a finished run leaves this file", 1)
    typer.echo(f"{target}: {target.stat().st_size:,} bytes, {form.value} of {len(theta):,} masked weights")
