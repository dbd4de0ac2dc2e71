"""The command `deltamask codec compare`, and what it measures."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from common.codecs import get_codec
from common.codecs.base import DeltaCodec
from common.errors import ConfigError
from common.theta import probabilities
from common.wire import read_header
from deltamask_server.tools.cli import app
from deltamask_server.tools.codec_comparison.compare import Comparison, compare, variants
from deltamask_server.tools.codec_comparison.synthetic import realistic_round, round_of_density
from deltamask_server.tools.codec_comparison.table import print_comparisons
from tests.codecs.cases import plain_entropy_bits
from tests.conftest import local_step, shared_state

SMALL = ("codec", "compare", "--d", "20000")


def run(*args: str | Path, columns: int = 100) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": str(columns), "TERM": "dumb"})


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
