from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from common.codecs import available_codecs, codec_of, get_codec
from common.codecs.base import DeltaCodec
from common.errors import ConfigError, ImplausibleDelta, PayloadError
from common.theta import probabilities
from common.wire import HEADER_BYTES, Header, pack_payload, read_header
from deltamask_server.tools.cli import app
from deltamask_server.tools.cli.inspect import explain
from deltamask_server.tools.codec_comparison.compare import Comparison, compare, variants
from deltamask_server.tools.codec_comparison.synthetic import realistic_round, round_of_density
from deltamask_server.tools.codec_comparison.table import print_comparisons
from tests.codecs.cases import plain_entropy_bits
from tests.conftest import local_step, shared_state

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.payload"))
SMALL = ("codec", "compare", "--d", "20000")


def run(*args: str | Path, columns: int = 100) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": str(columns), "TERM": "dumb"})


def with_body(number: int, n: int, body: bytes, d: int = 4096) -> bytes:
    return pack_payload(Header(number, 1, 0, d, n, bytes(8)), body)


# -- compare -----------------------------------------------------------------------------------------------------------


def test_figures_are_those_of_the_payload() -> None:
    shared, local = round_of_density(50_000, 0.01)
    for label, codec in variants().items():
        figures = compare(codec, local, shared, repeats=1, label=label)
        payload = codec.encode(local, shared)
        assert (figures.codec, figures.d, figures.payload_bytes) == (label, 50_000, len(payload))
        assert figures.n == read_header(payload)[0].n
        assert figures.bpp == pytest.approx(8 * len(payload) / 50_000)
        assert figures.encode_rate > 0
        assert figures.decode_rate > 0
        if isinstance(codec, DeltaCodec):
            assert figures.flips == 500
            assert figures.entropy_bits == pytest.approx(plain_entropy_bits(500, 50_000))
        else:
            assert figures.flips is figures.entropy_bits is None
        if label in ("fuse32", "exact", "bitmap"):
            assert figures.wrong == 0
        if label.startswith("relative"):
            assert figures.wrong is None


def test_no_codec_is_below_its_own_limit() -> None:
    shared, local = round_of_density(200_000, 0.01)
    for codec in variants().values():
        ratio = compare(codec, local, shared, repeats=1).bound_ratio
        assert ratio is not None
        assert 1 <= ratio < 1.7


def test_flips_that_a_filter_leaves_out_are_wrong_too() -> None:
    shared, local = round_of_density(200_000, 0.05)
    codec = get_codec("fuse8")
    assert isinstance(codec, DeltaCodec)
    left_out = 10_000 - len(codec.selected_delta(local, shared))
    figures = compare(codec, local, shared, repeats=1)
    assert left_out > 0
    assert figures.wrong == np.count_nonzero(
        codec.decode(codec.encode(local, shared), shared) != shared.local_mask(local)
    )
    assert figures.wrong > left_out


def test_only_the_share_that_is_kept_is_to_arrive() -> None:
    shared, local = round_of_density(50_000, 0.01)
    figures = compare(get_codec("exact", keep=0.5), local, shared, repeats=1)
    assert (figures.flips, figures.n, figures.wrong) == (250, 250, 0)


def test_nothing_changed() -> None:
    shared = shared_state(1000)
    for codec in variants().values():
        figures = compare(codec, probabilities(shared.theta), shared, repeats=1)
        assert not figures.wrong
        assert not figures.flips
        assert figures.entropy_ratio is None


@pytest.mark.parametrize("density", [0, 0.0002, 0.01, 0.1, 0.3])
def test_a_round_flips_as_many_bits_as_asked(density: float) -> None:
    shared, local = round_of_density(50_000, density, seed=3)
    wanted = density * 50_000
    assert abs(np.count_nonzero(shared.local_mask(local) != shared.mask()) - wanted) <= wanted / 1000


def test_a_round_of_one_position() -> None:
    for seed in range(20):
        for make in (realistic_round, lambda d, seed: round_of_density(d, 0.3, seed)):
            shared, local = make(1, seed=seed)
            assert shared.d == 1
            assert 0 < local[0] < 1


@pytest.mark.parametrize("density", [-0.1, 0.31, float("nan")])
def test_no_round_of_an_absurd_density(density: float) -> None:
    with pytest.raises(ConfigError, match="density"):
        round_of_density(100, density)


# -- deltamask codec compare -------------------------------------------------------------------------------------------


def test_the_table_has_every_codec() -> None:
    result = run(*SMALL)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert set(variants()) <= {line.split()[0] for line in lines if line.strip()}
    assert "dec M/s" in result.stdout


def test_the_largest_figures_fit_100_columns() -> None:
    file = io.StringIO()
    figures = [
        Comparison(label, 2_211_840, 663_552, 2_987_654, 663_552, 999_999, 1.9e6, 2e7, "given contexts", 9e8, 9e8)
        for label in variants()
    ]
    print_comparisons(Console(file=file, width=100), "synthetic round, seed 1", 2_211_840, 663_552, figures)
    assert max(map(len, file.getvalue().splitlines())) <= 100
    assert "dec M/s" in file.getvalue()


@pytest.mark.parametrize("columns", [30, 40, 60, 80])
def test_a_narrow_table_drops_columns_and_says_so(columns: int) -> None:
    result = run(*SMALL, "--codec", "fuse8", "--codec", "exact", columns=columns)
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert "…" not in result.stdout
    assert "Too narrow for: enc M/s" in result.stdout.replace("\n", " ")
    assert any(line.startswith("exact") and line.rstrip().endswith("0") for line in lines)


def test_json() -> None:
    result = run(*SMALL, "--density", "0.02", "--seed", "7", "--codec", "relative", "--codec", "fuse16", "--json")
    found = json.loads(result.stdout)
    assert {key: found[key] for key in ("seed", "d", "flips")} == {"seed": 7, "d": 20_000, "flips": 400}
    assert [each["codec"] for each in found["codecs"]] == ["fuse16", "relative"]
    assert found["codecs"][0]["bpp"] == 8 * found["codecs"][0]["payload_bytes"] / 20_000


@pytest.mark.parametrize("kind", ["npy", "safetensors", "float npy"])
def test_an_update_from_files(kind: str, tmp_path: Path) -> None:
    shared = shared_state(5000)
    local = local_step(shared.theta, seed=2)
    theta = probabilities(shared.theta) if kind.startswith("float") else shared.theta
    paths = [tmp_path / f"{name}.{kind.split()[-1]}" for name in ("before", "after")]
    for path, values in zip(paths, (theta, local), strict=True):
        save_file({"theta": values, "head.bias": values}, path) if kind == "safetensors" else np.save(path, values)
    result = run("codec", "compare", "--theta", paths[0], "--theta-local", paths[1], "--json", "--codec", "exact")
    found = json.loads(result.stdout)
    assert found["d"] == 5000
    assert found["flips"] > 0
    assert found["codecs"][0]["wrong"] == 0


def bad_files(folder: Path) -> dict[str, str]:
    """Files that hold no probabilities, and what must be said of each."""
    good = np.full(100, 30_000, np.uint16)
    arrays = {
        "short.npy": (good[:50], "must be of one model"),
        "square.npy": (good.reshape(10, 10), "shape is (10, 10)"),
        "empty.npy": (good[:0], "shape is (0,)"),
        "integers.npy": (good.astype(np.int64), "values are int64"),
        "zero.npy": (good * np.uint16(0), "position 0 is 0"),
        "nan.npy": (np.array([0.5, np.nan], np.float32), "position 1 is nan"),
        "scores.npy": (np.array([0.5, 0.5, 2.0]), "position 2 is 2"),
        "objects.npy": (np.array([{}], dtype=object), "cannot be read"),
    }
    for name, (values, _) in arrays.items():
        np.save(folder / name, values, allow_pickle=True)
    np.save(folder / "good.npy", good)
    save_file({"other": good}, folder / "other.safetensors")
    raw = {
        "cut.npy": ((folder / "good.npy").read_bytes()[:-1], "cannot be read"),
        "huge.npy": (
            (folder / "good.npy").read_bytes().replace(b"(100,), }", b"(99999999999,), }"),
            "cannot be read",
        ),
        "text.npy": (b"0.5 0.5", "does not begin as a .npy file"),
        "text.safetensors": (b"0.5 0.5 0.5", "cannot be read"),
        "nothing.safetensors": (b"", "cannot be read"),
        "values.csv": (b"0.5", "a .csv is not known"),
    }
    for name, (data, _) in raw.items():
        (folder / name).write_bytes(data)
    said = {name: text for name, (_, text) in {**arrays, **raw}.items()}
    return {**said, "other.safetensors": "no tensor `theta`", "missing.npy": "no such file"}


def test_every_bad_file_is_named_with_its_fault(tmp_path: Path) -> None:
    for name, text in bad_files(tmp_path).items():
        result = run("codec", "compare", "--theta", tmp_path / "good.npy", "--theta-local", tmp_path / name)
        assert result.exit_code == 2, name
        assert result.stderr.startswith("Error: --theta"), name
        assert text in result.stderr, (name, result.stderr)
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--theta", "a.npy"], "--theta-local is missing"),
        (["--theta-local", "a.npy"], "--theta is missing"),
        (["--theta", "a.npy", "--theta-local", "b.npy", "--d", "9"], "give one of the two"),
        (["--theta", "a.npy", "--density", "0.1"], "give one of the two"),
        (["--codec", "zip"], "--codec zip: there is no such codec; choose among fuse8, fuse8-all"),
        (["--density", "0.5"], "must be 0 to 0.3"),
        (["--d", "0"], "--d"),
    ],
)
def test_a_command_that_makes_no_sense(args: list[str], text: str) -> None:
    result = run("codec", "compare", *args)
    assert result.exit_code == 2
    assert text in result.stderr


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
    for path in (GOLDEN[0].with_name("exact.payload"), empty):
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


# -- start-up ----------------------------------------------------------------------------------------------------------


def test_a_payload_is_explained_without_torch() -> None:
    code = (
        "import sys; from deltamask_server.tools.cli import app; assert 'numpy' not in sys.modules;"
        f"app(['inspect', {str(GOLDEN[0])!r}], standalone_mode=False); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=Path(__file__).parents[1])


def test_help_names_every_command_and_codecs_are_all_compared() -> None:
    assert {"codec", "inspect"} <= set(run("--help").stdout.split())
    assert "--theta-local" in run("codec", "compare", "--help").stdout
    assert set(available_codecs()) < set(variants())
