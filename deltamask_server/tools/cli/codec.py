"""``deltamask codec compare``: every codec on the same update, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltamask_server.tools.cli.output import fail, make_console

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from common.codecs import Codec, SharedState

__all__ = ["app"]

app = typer.Typer(help="Codecs: what a local update weighs, and what of it arrives.", no_args_is_help=True)

_D = 2_211_840
_DENSITY = 0.01
_MOST = 1 << 28


@app.callback()
def _group() -> None:
    """Without a callback, typer would take a group of one command for that command."""


@app.command()
def compare(
    d: Annotated[
        int | None, typer.Option("--d", min=1, max=_MOST, help=f"Masked weights of a synthetic round; default {_D}.")
    ] = None,
    density: Annotated[
        float | None, typer.Option(help=f"Share of its mask bits that flip, 0 to 0.3; default {_DENSITY}.")
    ] = None,
    theta: Annotated[
        Path | None,
        typer.Option(
            help="Global probabilities instead: .npy, or .safetensors with a tensor `theta`; uint16 or float."
        ),
    ] = None,
    theta_local: Annotated[
        Path | None, typer.Option(help="Local probabilities that go with --theta, in such a file too.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the synthetic round and of the uniforms.")] = 1,
    codec: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this one, of the first column; may be given several times."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Encode one update with every codec: bytes, bits per parameter against theory, mistakes, speed.

    The update is synthetic (--d, --density), or comes from two files (--theta, --theta-local).
    """
    from common.errors import DeltaMaskError
    from deltamask_server.tools.codec_comparison.compare import compare as measure

    try:
        codecs = _chosen(codec or [])
        if theta is not None or theta_local is not None:
            if d is not None or density is not None:
                fail("--theta and --theta-local name an update, --d and --density make one: give one of the two", 2)
            source, (shared, local) = f"{theta} to {theta_local}", _from_files(theta, theta_local, seed)
        else:
            from deltamask_server.tools.codec_comparison.synthetic import round_of_density

            source = "synthetic round"
            shared, local = round_of_density(d or _D, _DENSITY if density is None else density, seed)
        console = make_console()
        figures = []
        with make_console(stderr=True).status("") as status:
            for label, each in codecs.items():
                status.update(f"measuring {label}")
                figures.append(measure(each, local, shared, label=label))
    except DeltaMaskError as error:
        fail(str(error), 2)
    flips = int((shared.local_mask(local) != shared.mask()).sum())
    if as_json:
        head: dict[str, Any] = {"source": source, "seed": seed, "d": shared.d, "flips": flips}
        typer.echo(json.dumps({**head, "codecs": [each.as_dict() for each in figures]}, indent=1))
        return
    from deltamask_server.tools.codec_comparison.table import print_comparisons

    print_comparisons(console, f"{source}, seed {seed}", shared.d, flips, figures)


def _chosen(names: list[str]) -> dict[str, Codec]:
    """Codecs by label, in the order of the table whatever the order of the options."""
    from deltamask_server.tools.codec_comparison.compare import variants

    known = variants()
    if odd := [name for name in names if name not in known]:
        fail(f"--codec {odd[0]}: there is no such codec; choose among {', '.join(known)}", 2)
    return {label: known[label] for label in known if not names or label in names}


def _from_files(theta: Path | None, theta_local: Path | None, seed: int) -> tuple[SharedState, NDArray[np.float32]]:
    """The update that two files hold; raises DataError."""
    from common.codecs import SharedState
    from common.theta import quantise
    from deltamask_server.tools.cli.theta_files import read_probabilities

    if theta is None or theta_local is None:
        missing = "--theta" if theta is None else "--theta-local"
        fail(f"{missing} is missing: an update is two files, the probabilities before and after local training", 2)
    before, after = read_probabilities(theta, "--theta"), read_probabilities(theta_local, "--theta-local")
    if len(before) != len(after):
        fail(f"--theta has {len(before):,} values and --theta-local {len(after):,}: they must be of one model", 2)
    return SharedState(quantise(before), seed=seed, round=1, slot=1), after
