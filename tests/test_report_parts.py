"""Parts of a report: the kept payload as a picture, axes, words and colours."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deltamask_server.tools.report.charts import ticks
from deltamask_server.tools.report.picture import draw
from deltamask_server.tools.report.style import STYLE
from deltamask_server.tools.report.wording import amount, duration, percent, run_config_option, times_less
from tests.federation import node, strategy
from tests.grid import MemoryGrid

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.payload"))


# -- the kept payload --------------------------------------------------------------------------------------------------


def kept_payloads(order: list[int], monkeypatch: Any, limit: int = 1 << 24) -> list[tuple[int, bytes] | None]:
    monkeypatch.setattr("deltamask_server.rounds._KEPT_BYTES", limit)
    deltamask, found = strategy(), []
    nodes = {100 + number: node(client) for number, client in enumerate(order)}
    deltamask.start(MemoryGrid(nodes), deltamask.arrays(), 2, 0.3, on_round=lambda report: found.append(report.payload))
    return found


def test_of_a_round_the_payload_of_the_first_slot_is_kept_whoever_answers_first(monkeypatch) -> None:
    found = kept_payloads([0, 1, 2], monkeypatch)
    assert len(found) == 2
    assert all(found)
    assert found == kept_payloads([2, 1, 0], monkeypatch)


def test_large_payloads_are_not_kept(monkeypatch) -> None:
    assert kept_payloads([0, 1, 2], monkeypatch, limit=100) == [None, None]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_every_codec_has_a_picture(path: Path) -> None:
    payload = path.read_bytes()
    picture = draw(payload)
    assert picture is not None
    assert picture.inside == path.stem.startswith("fuse")
    with Image.open(io.BytesIO(picture.png)) as image:
        assert image.size == (picture.width, picture.height)
        pixels = np.asarray(image).tobytes()
    if picture.inside:
        assert picture.png in payload
    else:
        assert pixels[: len(payload)] == payload
        assert not any(pixels[len(payload) :])


# -- small parts -------------------------------------------------------------------------------------------------------

_numbers = st.floats(-1e9, 1e9, allow_nan=False)


@given(_numbers, _numbers, st.booleans())
def test_ticks_enclose_what_they_are_for(a: float, b: float, whole: bool) -> None:
    low, high = sorted((a, b))
    found = ticks(low, high, whole)
    step = found[1] - found[0]
    assert 2 <= len(found) <= 9
    assert found[0] <= low + 1e-6 * step
    assert found[-1] >= high - 1e-6 * step
    assert not whole or all(value == round(value) for value in found)


def test_figures_are_said_as_a_person_reads_them() -> None:
    assert [amount(size) for size in (0, 999, 5_160, 4_199_290)] == ["0 bytes", "999 bytes", "5.2 kB", "4.20 MB"]
    assert [duration(value) for value in (6.44, 65, 7_380)] == ["6.4 s", "1 min 5 s", "2 h 3 min"]
    assert percent(0.96666) == "96.67"
    assert times_less(100, 36_200) == "362 times less than float32"
    assert times_less(100, 101) == "about as much as float32"
    assert times_less(150, 100) == "1.5 times as much as float32"
    assert times_less(0, 100) == ""
    assert run_config_option({"codec": "relative", "augment-mirror": False}) == (
        "\"codec='relative' augment-mirror=false\""
    )
    assert run_config_option({"dataset": "folder:$HOME/'x'"}) == ("'dataset=\"folder:$HOME/'\"'\"'x'\"'\"'\"'")


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_can_be_told_apart_in_light_and_dark() -> None:
    light, dark = (dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in STYLE.split("@media")[:2])
    assert light.keys() == dark.keys()
    for colours in (light, dark):
        for names, least in (
            (("ink", "soft", "good", "bad"), 4.5),
            (("blue", "orange", "green", "violet", "grey", "gold"), 3),
        ):
            for name in names:
                for ground in ("paper", "panel"):
                    low, high = sorted((luminance(colours[name]), luminance(colours[ground])))
                    assert (high + 0.05) / (low + 0.05) >= least, f"{name} on {ground}"
