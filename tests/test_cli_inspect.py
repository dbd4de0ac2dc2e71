"""The command `deltamask inspect`: what payloads say, and what is refused."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner, Result

from common.codecs import codec_of, get_codec
from common.errors import ImplausibleDelta, PayloadError
from common.methods.fedavg.payload import pack_weights
from common.theta import probabilities
from common.wire import HEADER_BYTES, Header, pack_payload, read_header
from deltamask_server.tools.cli import app
from deltamask_server.tools.cli.inspect import explain
from deltamask_server.tools.codec_comparison.compare import variants
from tests.conftest import local_step, shared_state

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.payload"))


def run(*args: str | Path, columns: int = 100) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": str(columns), "TERM": "dumb"})


def with_body(number: int, n: int, body: bytes, d: int = 4096) -> bytes:
    return pack_payload(Header(number, 1, 0, d, n, bytes(8)), body)


# -- deltamask inspect -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_payloads_are_explained(path: Path) -> None:
    result = run("inspect", path)
    assert result.exit_code == 0
    large = path.stem.endswith("-large")
    weights = "557,056 masked weights" if large else "4,096 masked weights"
    for text in ("round, slot", "2, 5", weights, f"wire version {1 + large}", "fits", "not decoded"):
        assert text in result.stdout
    assert large or "5f0169dba0755392" in result.stdout
    assert path.stem.removesuffix("-all").removesuffix("-large") in result.stdout
    assert f"{path.stat().st_size:,}  in all" in result.stdout


@pytest.mark.parametrize("kind", ["step", "same"])
def test_parts_add_up_for_every_codec(kind: str) -> None:
    shared = shared_state(3000)
    local = local_step(shared.theta, seed=1) if kind == "step" else probabilities(shared.theta)
    for codec in variants().values():
        payload = codec.encode(local, shared)
        header, intact = read_header(payload)
        parts = codec_of(payload).describe(header.n, payload[HEADER_BYTES:]).parts
        assert intact
        assert sum(parts.values()) == len(payload) - HEADER_BYTES
        assert explain(payload)[1] is None


def test_what_is_said_of_a_filter() -> None:
    text = run("inspect", GOLDEN[0].with_name("fuse8.payload")).stdout
    for part in ("6df6b22537d23467", "8 of 128", "1,024 of 8 bits", "3,477", "32 x 32", "961  PNG", "1.9727 bits"):
        assert part in text
    assert "every position is tested" in run("inspect", GOLDEN[0].with_name("fuse8-all.payload")).stdout


def test_the_picture_of_a_filter_is_written_as_it_is(tmp_path: Path) -> None:
    golden = GOLDEN[0].with_name("fuse16.payload")
    result = run("inspect", golden, "--png", tmp_path / "out.png")
    assert result.exit_code == 0
    assert golden.read_bytes().endswith((tmp_path / "out.png").read_bytes())
    with Image.open(tmp_path / "out.png") as image:
        assert (image.mode, image.size) == ("L", (32, 64))


def test_no_picture_where_there_is_none(tmp_path: Path) -> None:
    shared = shared_state(100)
    empty = tmp_path / "empty.payload"
    empty.write_bytes(get_codec("fuse8").encode(probabilities(shared.theta), shared))
    numbers = tmp_path / "numbers.payload"
    numbers.write_bytes(pack_weights(np.zeros(9, np.float32), 1, 0, bytes(8)))
    for path in (GOLDEN[0].with_name("exact.payload"), empty, numbers):
        result = run("inspect", path, "--png", tmp_path / "out.png")
        assert result.exit_code == 2
        assert "holds no picture" in result.stderr
        assert not (tmp_path / "out.png").exists()
    result = run("inspect", GOLDEN[0].with_name("fuse8.payload"), "--png", tmp_path / "no" / "out.png")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


def golden(name: str) -> bytes:
    return GOLDEN[0].with_name(f"{name}.payload").read_bytes()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated"),
        (golden("fuse8")[:33], "truncated"),
        (b"\x89PNG" + bytes(100), "wrong-format"),
        (golden("fuse8")[:2] + b"\x03" + golden("fuse8")[3:], "wrong-format"),
        (pack_payload(Header(4, 1, 0, 4096, 0, bytes(8), version=2), b""), "wrong-format"),
        (golden("fuse8")[:3] + b"\x07" + golden("fuse8")[4:], "wrong-format"),
        (golden("fuse8")[:4] + b"\xff" + golden("fuse8")[5:], "wrong-format"),
        (golden("fuse8")[:-1], "checksum"),
        (golden("fuse8") + bytes(100_000), "oversized"),
        (with_body(1, 5000, b""), "wrong-model"),
        (with_body(1, 0, b"x"), "bad-geometry"),
        (with_body(1, 9, golden("fuse8")[HEADER_BYTES:]), "bad-geometry"),
        (with_body(1, 714, golden("fuse8")[HEADER_BYTES:-1]), "bad-image"),
        (with_body(4, 9, b"\x19" + bytes(6)), "bad-geometry"),
        (with_body(4, 9, b"\x01\x00\x00abc"), "truncated"),
        (with_body(5, 9, b"\x0a\x01"), "truncated"),
        (with_body(5, 0, b"\x0f\x01"), "bad-geometry"),
        (with_body(6, 9, b""), "truncated"),
        (with_body(7, 9, b"\x08" + b"\xff" * 13), "implausible-delta"),
    ],
)
def test_a_bad_payload_is_refused_with_its_reason(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.payload"
    path.write_bytes(data)
    result = run("inspect", path)
    assert result.exit_code == 1
    assert f"refused, {reason}: " in result.stderr
    assert result.stderr.count("\n") == 1


def test_no_file(tmp_path: Path) -> None:
    for path, text in ((tmp_path / "none", "there is no such file"), (tmp_path, "not a file")):
        result = run("inspect", path)
        assert result.exit_code == 2
        assert text in result.stderr


def assert_explained_or_refused(data: bytes) -> None:
    try:
        lines, _ = explain(data)
    except PayloadError:
        return
    assert lines[-1][0] == "mask"


@given(st.binary(max_size=200))
def test_any_bytes_are_explained_or_refused(data: bytes) -> None:
    assert_explained_or_refused(data)
    assert_explained_or_refused(b"DM\x01\x01" + data)


words = st.sampled_from([0, 1, 714, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1)


@settings(max_examples=300)
@given(st.integers(0, 9), words, words, st.binary(max_size=60))
def test_any_header_and_body_are_explained_or_refused(number: int, n: int, d: int, body: bytes) -> None:
    assert_explained_or_refused(with_body(number, n, body, d))


@settings(max_examples=300)
@given(st.sampled_from(GOLDEN), st.integers(HEADER_BYTES, 80), st.binary(min_size=1, max_size=8), words, words)
def test_damaged_bodies_of_any_size_are_explained_or_refused(path: Path, at: int, patch: bytes, n: int, d: int) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + len(patch)] = patch
    assert_explained_or_refused(with_body(data[4], n, bytes(data[HEADER_BYTES:]), d))
    assert_explained_or_refused(bytes(data))


def test_memory_follows_from_the_bytes_of_a_payload_and_not_from_its_numbers() -> None:
    # A picture of 64 MiB of zeros in 64 KiB, as large as the header's n allows.
    side = 1 << 13
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes((side + 1) * side), 9)),
        (b"IEND", b""),
    ]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    body = struct.pack("<QBI", 0, 13, (1 << 13) - 2) + png
    tracemalloc.start()
    try:
        _, refused = explain(with_body(1, 1 << 26, body, d=2**32 - 1))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(refused, ImplausibleDelta), "n random fingerprints do not fit into so few bytes"
    assert peak < 1 << 25
