"""``deltamask export``: the model of a run as one file to carry away."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltamask_server.tools.cli.output import fail

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from common.models import Head

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
    """Write the fine-tuned model of a run as a file, for `deltamask predict` and `deltamask_server.load_finetuned`.

    Runs of the method hidenseek have one form, whatever --form says: two bits a masked weight. Exit status 1 if the
    folder holds no finished run, or one of the method fedavg.
    """
    from safetensors import SafetensorError, safe_open

    from common.errors import DeltaMaskError
    from common.models import Head
    from deltamask_server.tools.finetuned import Place, write_finetuned, write_signs

    source = run / "model.safetensors"
    try:
        with safe_open(source, "np") as file:
            about = file.metadata() or {}
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if not {"theta", "signs"} & set(tensors):
            fail(f"{source}: no theta in it: export is for runs of the methods deltamask and hidenseek", 1)
        config = json.loads(about["config"])
        head = Head(tensors["head.weight"], tensors["head.bias"])
        place: Place = {
            "backbone": about["backbone"],
            "image_size": config["image-size"],
            "masked_blocks": config["masked-blocks"],
            "digest": about["backbone_digest"],
            "classes": tuple(json.loads(about.get("classes", "[]"))),
        }
        what = form.value if "theta" in tensors else "signs"
        target = out or run / f"{what}.safetensors"
        if what == "signs":
            signs, head = _signs(tensors, head, config, about)
            write_signs(target, signs, head, magnitudes=config["sign-magnitudes"], **place)
            count = len(signs)
        else:
            write_finetuned(target, what, tensors["theta"], head, **place)
            count = len(tensors["theta"])
    except (OSError, SafetensorError, KeyError, ValueError, DeltaMaskError) as error:
        fail(f"{source}: {type(error).__name__}: {error}; a finished run leaves this file", 1)
    typer.echo(f"{target}: {target.stat().st_size:,} bytes, {what} of {count:,} masked weights")


def _signs(
    tensors: dict[str, Any], head: Head, config: dict[str, Any], about: dict[str, str]
) -> tuple[NDArray[np.int8], Head]:
    """Signs of the backbone's masked weights (0 is pruned), and the head with its own signs if it is a random one."""
    import numpy as np

    from common.models import Head
    from common.models.heads.random_head import RANDOM_HEAD
    from common.models.subnetwork import Subnetwork
    from deltamask_server.tools.outline import outline

    place = outline(about["backbone"], config["image-size"], config["masked-blocks"])
    sizes = tuple(int(np.prod(shape)) for _, shape in place.tensors)
    signs_head = config["head"] == RANDOM_HEAD
    subnetwork = Subnetwork.unchecked(tensors["subnetwork"].tobytes(), sizes + (head.weight.size,) * signs_head)
    signs = subnetwork.spread(tensors["signs"].astype(np.float32) * 2 - 1)
    tail, rest = np.split(signs, [sum(sizes)])
    if signs_head:
        kept = Subnetwork(rest != 0, (rest.size,))
        weight = kept.prepare(head.weight.ravel(), config["sign-magnitudes"]) * rest
        head = Head(weight.reshape(head.weight.shape), head.bias)
    return tail.astype(np.int8), head
