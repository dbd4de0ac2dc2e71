"""``deltamask inspect``: what a payload says, without the model it belongs to.

A payload can be decoded only with theta, seed and layers of its run. What its header and the front of its body say can
be read without, and so can whatever is wrong with them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltamask_server.tools.cli.output import fail

if TYPE_CHECKING:
    from common.errors import PayloadError
    from common.methods import Method

__all__ = ["explain", "inspect", "picture_of", "read_payload"]

_NOT_DECODED = "not decoded: that takes theta, seed and layers of its run"


def inspect(
    payload: Annotated[Path, typer.Argument(help="A file with the bytes of one payload.", show_default=False)],
    png: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="Write the picture in a payload of a `fuse` codec there.")
    ] = None,
) -> None:
    """Explain a payload: header, codec, what its body says, and where its bytes go.

    Exit status 1 if a receiver would refuse it for what can be seen without theta.
    """
    from common.errors import PayloadError

    try:
        data = read_payload(payload)
        lines, refused = explain(data)
    except PayloadError as error:
        fail(f"{payload}: refused, {error.reason}: {error}", 1)
    except OSError as error:
        fail(f"{payload}: cannot be read ({error.strerror or error})", 2)
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        typer.echo(f"{name:{width}}   {value}")
    if refused is not None:
        fail(f"{payload}: refused, {refused.reason}: {refused}", 1)
    if png is None:
        return
    picture = picture_of(data)
    if not picture:
        fail(f"--png {png}: this payload holds no picture; those of fuse8, fuse16 and fuse32 with flips do", 2)
    try:
        png.write_bytes(picture)
    except OSError as error:
        fail(f"--png {png}: cannot be written ({error.strerror or error})", 2)
    typer.echo(f"wrote {png}")


def read_payload(path: Path) -> bytes:
    """Read a payload, and not a byte more than the largest one for the d that it names.

    Raises
    ------
    OSError
        If there is no such file, or it is none.
    TruncatedPayload, WrongFormat, OversizedPayload
        If it has no header, or is too large for it.
    """
    from common.errors import OversizedPayload
    from common.wire import HEADER_BYTES, max_payload_bytes, read_header

    if not path.is_file():
        raise OSError("not a file" if path.exists() else "there is no such file")
    with path.open("rb") as file:
        front = file.read(HEADER_BYTES)
        limit = max_payload_bytes(read_header(front)[0].d)
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OversizedPayload(f"{size} bytes; at most {limit} for the masked weights that it names")
        return front + file.read(limit - len(front))


def explain(payload: bytes) -> tuple[list[tuple[str, str]], PayloadError | None]:
    """Explain a payload.

    Returns
    -------
    Lines of a name and a value each (an empty name goes on with the one before), and why a receiver would refuse the
    payload, if it can be seen without theta.

    Raises
    ------
    TruncatedPayload, WrongFormat
        If it has no header of ours, or names no codec: then there is nothing to explain.
    """
    from common.codecs import codec_of
    from common.errors import ChecksumMismatch, PayloadError, WrongFormat, WrongModel
    from common.gain import gain_of
    from common.methods import method_of
    from common.wire import HEADER_BYTES, read_header

    header, intact = read_header(payload)
    method = method_of(header.method)
    if method is None:
        raise WrongFormat(f"method {header.method}: there is no such method")
    if method.plain_fields(header) is not None:
        return _explain_numbers(payload, method)
    codec = codec_of(payload)
    lines = [
        ("format", f"wire version {header.version}, method {method.name}"),
        ("codec", f"{codec.name} (number {codec.number})"),
        ("round, slot", f"{header.round:,}, {header.slot:,}"),
        ("d", f"{header.d:,} masked weights"),
        ("n", f"{header.n:,} {codec.counts}" + (f", {100 * header.n / header.d:.3g} % of d" if header.d else "")),
        *([("gain", f"each change counts {gain_of(header.gain):.3g} times")] if header.gain else []),
        ("base digest", header.base_digest.hex()),
        ("checksum", "fits" if intact else "does not fit"),
    ]
    refused: PayloadError | None = None if intact else ChecksumMismatch("the checksum does not fit the bytes")
    parts = {"header": HEADER_BYTES}
    try:
        if header.version > codec.newest_version:
            raise WrongFormat(f"version {header.version}; codec {codec.name} has none above {codec.newest_version}")
        if header.n > header.d:
            raise WrongModel(f"{header.d} masked weights and {header.n} positions")
        body = codec.describe(header.n, payload[HEADER_BYTES:])
        lines += [(name, f"{value:,}" if isinstance(value, int) else value) for name, value in body.fields.items()]
        parts |= body.parts
    except PayloadError as error:
        refused = refused or error
        parts["body, unreadable"] = len(payload) - HEADER_BYTES
    names = ["bytes", *[""] * len(parts)]
    sizes = [*(f"{size:>9,}  {part}" for part, size in parts.items()), f"{len(payload):>9,}  in all"]
    sizes[-1] += f", {8 * len(payload) / header.d:.5g} bits per parameter" if header.d else ""
    return [*lines, *zip(names, sizes, strict=True), ("mask", _NOT_DECODED)], refused


def picture_of(payload: bytes) -> bytes:
    """The PNG in a payload that `explain` finds nothing wrong with; empty where it has none."""
    from common.codecs import codec_of
    from common.codecs.fuse import FuseCodec
    from common.wire import HEADER_BYTES, PLAIN, read_header

    header, _ = read_header(payload)
    codec = None if header.codec == PLAIN else codec_of(payload)
    return codec.read_png(header.n, payload[HEADER_BYTES:]) if isinstance(codec, FuseCodec) else b""


def _explain_numbers(payload: bytes, method: Method) -> tuple[list[tuple[str, str]], PayloadError | None]:
    """As `explain`, for plain float32."""
    from common.errors import PayloadError
    from common.wire import HEADER_BYTES, read_header

    header, intact = read_header(payload)
    lines = [
        ("format", f"wire version {header.version}, method {method.name}: float32, not compressed"),
        ("round, slot", f"{header.round:,}, {header.slot:,}"),
        *(method.plain_fields(header) or {}).items(),
        ("base digest", header.base_digest.hex()),
        ("checksum", "fits" if intact else "does not fit"),
        ("bytes", f"{len(payload):,} in all, {HEADER_BYTES} of them header"),
    ]
    try:
        numbers = method.plain_values(payload, header)
    except PayloadError as error:
        return lines, error
    values = f"{numbers.min():.4g} to {numbers.max():.4g}" if len(numbers) else "none"
    return [*lines, ("values", values)], None
