"""The table of formats in docs/data.md: an example of every row becomes what the row says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from common.data.decode import _FORMATS, decode_image
from common.data.pixel_range import PixelRange
from common.errors import DataError
from tests import markdown
from tests.pictures import SIDE, bits, chunk, colours, half_clear, on_white, picture, png, saved, tiff
from tests.test_data_formats import BLACK_AND_WHITE, GREY, MODES, OPTIONS

Example = tuple[bytes | BytesIO, PixelRange | None, NDArray[np.uint8] | None]
"""A file, the range in the config, and its pixels; None where it is refused."""
WIDE, TWELVE = picture().astype(np.uint16) * 257, picture().astype(np.uint16) // 17 * 273
RANGE, BYTES = PixelRange(0, 4095), PixelRange(0, 255)
SMALL = picture()[:, ::2] // 17 << 4 | picture()[:, 1::2] // 17
"""In 4 bits."""


def held(format: str, *modes: str) -> list[Example]:
    """What Pillow writes of some modes."""
    return [(saved(MODES[mode][0](1), format, **OPTIONS.get(format, {})), None, MODES[mode][1]) for mode in modes]


def pnm(magic: str, largest: int, data: bytes) -> bytes:
    return f"{magic} {SIDE} {SIDE} {largest or ''}\n".encode() + data


def dicom_grey() -> list[Example]:
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from tests.test_data_dicom import CT, STORED, dicom

    inverted = dicom(picture(), PhotometricInterpretation="MONOCHROME1")
    return [
        (dicom(STORED, **CT, WindowCenter=0, WindowWidth=9), PixelRange(-200, 820), GREY),
        (dicom(STORED, **CT, WindowCenter=310.5, WindowWidth=1021), None, GREY),
        (dicom(TWELVE, BitsStored=12), None, GREY),
        (inverted, None, 255 - GREY),
    ]


def dicom_colours() -> list[Example]:
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from tests.test_data_dicom import dicom

    ycc = np.asarray(Image.fromarray(colours()).convert("YCbCr"))
    return [
        (dicom(colours()), None, colours()),
        (dicom(ycc, PhotometricInterpretation="YBR_FULL"), None, colours()),
    ]


EXAMPLES: dict[tuple[str, str], Callable[[], list[Example]]] = {
    ("JPEG", "grey"): lambda: held("JPEG", "L"),
    ("JPEG", "RGB, YCbCr"): lambda: held("JPEG", "RGB", "YCbCr"),
    ("JPEG", "CMYK"): lambda: held("JPEG", "CMYK"),
    ("PNG", "1, 2, 4 or 8 bits, grey"): lambda: held("PNG", "1", "L"),
    ("PNG", "8 bits, with alpha or a transparent colour"): lambda: held("PNG", "LA"),
    ("PNG", "palette, transparent or not"): lambda: held("PNG", "P", "P, one colour clear"),
    ("PNG", "RGB, RGBA of 8 bits"): lambda: held("PNG", "RGB", "RGBA"),
    ("PNG", "16 bits, grey or colours, with alpha or not"): lambda: [
        (png(WIDE), None, GREY),
        (png(TWELVE), RANGE, GREY),
        (png(TWELVE, chunks=[chunk(b"sBIT", b"\x0c")]), None, GREY),
        (png(colours().astype(np.uint16) // 17 * 273, 2), RANGE, colours()),
        (png(np.dstack([TWELVE, half_clear() * np.uint16(257)]), 4), RANGE, on_white(GREY)),
    ],
    ("WebP", "RGB, RGBA"): lambda: held("WEBP", "RGB", "RGBA"),
    ("TIFF", "1, 2, 4 or 8 bits, grey"): lambda: [
        *held("TIFF", "1", "L"),
        (tiff(picture(), photometric=0), None, 255 - GREY),
        (tiff(SMALL, bits=4), None, GREY),
    ],
    ("TIFF", "8 bits, signed"): lambda: [(tiff((picture() ^ 0x80).view(np.int8), sample_format=2), None, GREY)],
    ("TIFF", "grey and alpha, multiplied in or not"): lambda: [
        *held("TIFF", "LA"),
        (
            tiff(np.dstack([picture() * (half_clear() > 0), half_clear()]), tags=[(338, 3, [1])]),
            None,
            on_white(GREY),
        ),
    ],
    ("TIFF", "palette, with alpha or not"): lambda: held("TIFF", "P", "PA"),
    ("TIFF", "RGB, RGBA of 8 bits"): lambda: held("TIFF", "RGB", "RGBA"),
    ("TIFF", "CMYK"): lambda: held("TIFF", "CMYK"),
    ("TIFF", "YCbCr"): lambda: held("TIFF", "YCbCr"),
    ("TIFF", "12 or 16 bits, grey, signed or not"): lambda: [
        (tiff(WIDE), None, GREY),
        (tiff(TWELVE), RANGE, GREY),
        (tiff(TWELVE, tags=[(341, 3, [4095])]), None, GREY),
        (tiff((WIDE.astype(int) - 32768).astype(np.int16), sample_format=2), None, GREY),
        (tiff(WIDE, ">", 0), None, 255 - GREY),
    ],
    ("TIFF", "16 bits, RGB or RGBA"): lambda: [
        (tiff(colours().astype(np.uint16) * 257, photometric=2), None, colours()),
        (tiff(colours().astype(np.uint16) // 17 * 273, photometric=2), RANGE, colours()),
        (tiff(colours().astype(np.uint16) * 257, photometric=2, planes=True), RANGE, colours()),
    ],
    ("TIFF", "32 bits, whole numbers or floating-point, grey"): lambda: [
        (tiff(picture().astype(np.uint32)), BYTES, GREY),
        (tiff(picture().astype(np.float32), sample_format=3), BYTES, GREY),
        (tiff(picture().astype(np.uint32)), None, None),
        (tiff(picture().astype(np.float32), sample_format=3), None, None),
    ],
    ("BMP", "1 to 8 bits, or RGB"): lambda: held("BMP", "1", "L", "P", "RGB"),
    ("GIF", "grey or palette, transparent or not"): lambda: held("GIF", "L", "P", "P, one colour clear"),
    ("PBM, PGM, PPM", "1 bit, grey or RGB, as text or not"): lambda: [
        *held("PPM", "1", "L", "RGB"),
        (pnm("P5", 15, (picture() // 17).tobytes()), None, GREY),
        (pnm("P3", 15, " ".join(map(str, (colours() // 17).ravel())).encode()), None, colours()),
        (pnm("P1", 0, " ".join(map(str, 1 - bits().ravel().astype(int))).encode()), None, BLACK_AND_WHITE),
    ],
    ("PGM", "largest value above 255"): lambda: [
        (pnm("P5", 4095, TWELVE.astype(">u2").tobytes()), None, GREY),
        (pnm("P5", 9999, TWELVE.astype(">u2").tobytes()), RANGE, GREY),
    ],
    ("PFM", "grey"): lambda: [
        (pnm("Pf", -1, picture()[::-1].astype("<f4").tobytes()), wanted, shown)
        for wanted, shown in ((BYTES, GREY), (None, None))
    ],
    ("DICOM", "grey"): dicom_grey,
    ("DICOM", "RGB, YBR, palette"): dicom_colours,
}


def rows() -> list[tuple[str, str]]:
    tokens = markdown.tokens("docs/data.md")
    cells = [token.content for before, token in itertools.pairwise(tokens) if before.type == "td_open"]
    start = cells.index("JPEG")
    found = [(cells[at], cells[at + 1]) for at in range(start, len(cells) - 2, 3)]
    return found[: found.index(("DICOM", "RGB, YBR, palette")) + 1]


def test_every_row_has_an_example_and_every_format_a_row() -> None:
    assert rows() == list(EXAMPLES)
    named = " ".join(format for format, _ in rows()).upper()
    assert all(format in named for format in (*_FORMATS, "DICOM"))


@pytest.mark.parametrize("row", EXAMPLES, ids=": ".join)
def test_an_example_of_each_row(row: tuple[str, str]) -> None:
    for file, wanted, expected in EXAMPLES[row]():
        source = BytesIO(file) if isinstance(file, bytes) else file
        if expected is None:
            with pytest.raises(DataError, match="set pixel-range"):
                decode_image(source, SIDE, pixel_range=wanted)
        else:
            pixels = decode_image(source, SIDE, pixel_range=wanted)
            assert abs(pixels.astype(int) - expected).max() <= (10 if row[0] in ("JPEG", "DICOM") else 3)
