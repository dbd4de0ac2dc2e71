"""What images look like, in figures: as a contact sheet shows it, for machines without a screen."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.data.decode import decode_image
from common.data.information import shows_little
from common.data.inventory import Inventory
from common.data.pixel_range import PixelRange
from common.data.split import Split
from common.errors import ConfigError, brief
from deltamask_server.tools.doctor.finding import Finding, failed, ok, warning

__all__ = ["look_at_arrays", "look_at_files"]

_SECONDS = 5.0
"""For decoding; ten thousand small images take less, large photos are sampled."""
_SIDE = 64
_ARRAYS = 1_000
_SHOWN = 3


class _Sheet:
    """Sums over the images looked at."""

    def __init__(self) -> None:
        self.count, self.means, self.low, self.high = 0, 0.0, 255, 0
        self.little: list[str] = []
        self.broken: list[str] = []
        self.sizes: Counter[str] = Counter()
        self.modes: Counter[str] = Counter()

    def add(self, name: str, pixels: NDArray[np.uint8]) -> None:
        """Pixels as a backbone gets them."""
        self.count += 1
        self.means += float(pixels.mean())
        self.low, self.high = min(self.low, int(pixels.min())), max(self.high, int(pixels.max()))
        if shows_little(pixels):
            self.little.append(name)

    def finding(self, total: int) -> Finding:
        """Of so many images in all."""
        looked = self.count + len(self.broken)
        found = f"{looked:,} of {total:,} decoded"
        if self.count:
            found += f": mean {self.means / self.count:.0f}, range {self.low} .. {self.high}"
        for what, counter in (("sizes", self.sizes), ("modes", self.modes)):
            if counter:
                most = ", ".join(f"{name} ({count:,})" for name, count in counter.most_common(_SHOWN))
                found += f", {what} {most}" + (f" and {len(counter) - _SHOWN} more" if len(counter) > _SHOWN else "")
        found += f"; {len(self.broken):,} cannot be read" + _examples(self.broken)
        found += f"; {len(self.little):,} show next to nothing" + _examples(self.little)
        if self.broken or self.little:
            advice = "replace or remove them: broken ones are left out, blank ones teach nothing; stretch values of "
            return warning("data: images", found, f"{advice}less than 16 bits first")
        return ok("data: images", found)


def look_at_files(inventory: Inventory, pixel_range: PixelRange | None = None) -> Finding:
    """Decode images of a folder for a few seconds, from all over it."""
    sheet, until = _Sheet(), time.monotonic() + _SECONDS
    for position in _spread(len(inventory.used)):
        path = inventory.used[position]
        try:
            pixels = decode_image(inventory.root / path, _SIDE, pixel_range=pixel_range)
        except ConfigError as error:  # a package is missing here: no fault of the images
            return failed("data: images", str(error), "or leave such files out")
        except Exception:  # decoders raise whatever they like
            sheet.broken.append(path)
        else:
            sheet.add(path, pixels)
            size, mode = _size_and_mode(inventory.root / path)
            sheet.sizes[size] += 1
            sheet.modes[mode] += 1
        if time.monotonic() > until:
            break
    return sheet.finding(len(inventory.used))


def look_at_arrays(split: Split) -> Finding:
    """Look at images of a file of arrays, from all over it."""
    sheet, total = _Sheet(), len(split.labels)
    positions = np.unique(np.linspace(0, total - 1, min(total, _ARRAYS)).astype(np.int64))
    pixels = split.load(positions).images
    for position, image in zip(positions, pixels, strict=True):
        sheet.add(f"image {position}", image)
        sheet.sizes[f"{image.shape[1]} x {image.shape[0]}"] += 1
    return sheet.finding(total)


def _size_and_mode(path: Path) -> tuple[str, str]:
    """As Pillow has them; other readers take what it does not know."""
    try:
        with Image.open(path) as image:
            return f"{image.width} x {image.height}", image.mode
    except Exception:  # it raises whatever it likes
        return "size not known", "DICOM"


def _spread(count: int) -> Iterator[int]:
    """All numbers below a count, so that any first part of them is spread over the whole: a step of about the golden
    section, which no other number divides evenly.
    """
    step = max(1, round(count * 0.618034))
    while np.gcd(step, count) > 1:
        step += 1
    return (number * step % count for number in range(count))


def _examples(names: list[str]) -> str:
    return f" ({', '.join(map(brief, names[:_SHOWN]))})" if names else ""
