"""Folders of small generated images, as sites have them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"apple": (200, 30, 30), "fern": (30, 160, 40), "sea": (20, 60, 210)}


def write_folder(root: Path, counts: Mapping[str, int], seed: int = 0) -> Path:
    """Noisy images in the colour of their class: PNG and JPEG in turn, each of another size."""
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            height, width = (int(n) for n in rng.integers(20, 60, 2))
            noise = rng.integers(-20, 20, (height, width, 3))
            pixels = np.clip(np.array(COLOURS.get(name, (128, 128, 128))) + noise, 0, 255).astype(np.uint8)
            suffix = ("png", "jpg")[number % 2]
            Image.fromarray(pixels).save(root / name / f"{seed}-{number:03}.{suffix}")
    return root
