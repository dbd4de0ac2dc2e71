"""Images that show next to nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.information import shows_little
from tests.images import open_site, write_folder


def frame(make: Callable[[np.random.Generator], np.ndarray]) -> np.ndarray:
    return np.clip(make(np.random.default_rng(0)), 0, 255).astype(np.uint8)


def test_images_that_show_nothing_are_told_from_those_that_show_little() -> None:
    size = (100, 100)
    hot = frame(lambda rng: 20 + rng.normal(0, 1, size))
    hot[40, 40] = 90
    for nothing in (
        frame(lambda rng: np.full((*size, 3), (200, 30, 30))),
        frame(lambda rng: rng.integers(0, 16, size)),
        frame(lambda rng: 128 + rng.normal(0, 1.5, (*size, 3))),
        hot,
    ):
        assert shows_little(nothing)
    line = frame(lambda rng: np.full(size, 255))
    line[50] = 0
    assert not shows_little(line)
    assert not shows_little(frame(lambda rng: 60 + rng.normal(0, 5, size)))


def test_the_log_tells_of_images_that_show_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_folder(tmp_path / "site", {"apple": 2})
    Image.new("RGB", (30, 30), "white").save(root / "apple" / "blank.png")
    open_site(root).load(np.arange(3))
    assert "1 of 3 images show next to nothing" in caplog.text
    assert "(apple/blank.png)" in caplog.text
