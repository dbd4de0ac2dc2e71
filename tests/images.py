"""Folders of small generated images, as sites have them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from common.data import Split, open_split
from common.data.inventory import Inventory

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


SYSTEM = (
    "lost+found",
    "__MACOSX",
    "@eaDir",
    ".ipynb_checkpoints",
    "Thumbs",
    "$RECYCLE.BIN",
    "System Volume Information",
)


def open_site(root: Path, part: Literal["train", "test"] = "train", own: bool = True) -> Split:
    """Open a folder as a site does, or the server; its cache is beside it."""
    return open_split(f"folder:{root}", part, 16, root.parent / "cache", own=own)


def inventory(root: Path) -> Inventory:
    """What becomes of the files of a site's folder."""
    found = open_site(root).inventory
    assert found is not None
    return found


def picture(form: str, seed: int = 0) -> bytes:
    """A small picture, as a file of this format."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()
