"""Every accepted format, mode and orientation becomes the same picture, whatever Pillow has done of it on the way."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from common.data.decode import decode_image
from common.data.pixel_range import PixelRange
from tests.pictures import (
    SIDE,
    bits,
    chunk,
    colours,
    exif,
    half_clear,
    on_white,
    picture,
    png,
    saved,
    tiff,
    turned,
    xmp,
)

Pixels = NDArray[np.uint8]
GREY = np.repeat(picture()[..., None], 3, axis=2)
BLACK_AND_WHITE = np.repeat(np.where(bits(), np.uint8(255), np.uint8(0))[..., None], 3, axis=2)
FULL = PixelRange(0, 255)
"""What is black and white where 8-bit values are kept in 32."""


def of_palette(orientation: int) -> Image.Image:
    stored = turned(colours(), orientation)
    found, numbers = np.unique(stored.reshape(-1, 3), axis=0, return_inverse=True)
    image = Image.frombytes("P", stored.shape[1::-1], numbers.astype(np.uint8).tobytes())
    image.putpalette(found.tobytes())
    return image


def of_palette_with_a_clear_colour(orientation: int) -> Image.Image:
    """One number of the palette is clear, as in GIF."""
    image = of_palette(orientation)
    numbers = np.array(image)
    spare = int(numbers.max()) + 1
    numbers[turned(half_clear(), orientation) == 0] = spare
    clear = Image.frombytes("P", image.size, numbers.tobytes())
    clear.putpalette([*(image.getpalette() or [])[: 3 * spare], 1, 2, 3])
    clear.info["transparency"] = spare
    return clear


def of_palette_and_alpha(orientation: int) -> Image.Image:
    image = of_palette(orientation).convert("PA")
    image.putalpha(Image.fromarray(turned(half_clear(), orientation)))
    return image


def in_mode(mode: str) -> Callable[[int], Image.Image]:
    def made(orientation: int) -> Image.Image:
        if mode == "1":
            return Image.fromarray(turned(bits(), orientation))
        grey, rgb = (Image.fromarray(turned(each, orientation)) for each in (picture(), colours()))
        if mode in ("LA", "RGBA"):
            image = (grey if mode == "LA" else rgb).convert(mode)
            image.putalpha(Image.fromarray(turned(half_clear(), orientation)))
            return image
        return grey if mode == "L" else rgb.convert(mode)

    return made


def wide(orientation: int, dtype: str = "u2", factor: int = 257) -> NDArray[np.generic]:
    return (turned(picture(), orientation).astype(np.int64) * factor).astype(dtype)


MODES: dict[str, tuple[Callable[[int], Image.Image], Pixels]] = {
    "1": (in_mode("1"), BLACK_AND_WHITE),
    "L": (in_mode("L"), GREY),
    "LA": (in_mode("LA"), on_white(GREY)),
    "P": (of_palette, colours()),
    "P, one colour clear": (of_palette_with_a_clear_colour, on_white(colours())),
    "PA": (of_palette_and_alpha, on_white(colours())),
    "RGB": (in_mode("RGB"), colours()),
    "RGBA": (in_mode("RGBA"), on_white(colours())),
    "CMYK": (in_mode("CMYK"), colours()),
    "YCbCr": (in_mode("YCbCr"), colours()),
    "I;16": (lambda orientation: Image.fromarray(wide(orientation)), GREY),
}
HELD: dict[str, tuple[str, ...]] = {
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "PNG": ("1", "L", "LA", "P", "P, one colour clear", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"),
    "BMP": ("1", "L", "P", "RGB"),
    "GIF": ("1", "L", "P", "P, one colour clear"),
    "PPM": ("1", "L", "RGB", "I;16"),
}
"""Modes that Pillow writes each format in."""
TURNED = ("JPEG", "PNG", "WEBP", "TIFF")
"""Formats with an orientation."""
OPTIONS: dict[str, dict[str, object]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
OFF = {"JPEG": 10, "CMYK": 3, "YCbCr": 3}
"""By how much pixels may be off: what a lossy format does to them, and what a way to other colours and back does."""


PACKED = ("raw", "tiff_adobe_deflate", "tiff_lzw")
WAYS = [(format, mode, "exif") for format, modes in HELD.items() for mode in modes]
WAYS += [(format, mode, "xmp") for format in TURNED for mode in HELD[format]]
WAYS += [("TIFF", mode, how) for mode in HELD["TIFF"] for how in PACKED]


@pytest.mark.parametrize(("format", "mode", "how"), WAYS)
def test_every_format_mode_and_orientation_is_the_same_picture(format: str, mode: str, how: str) -> None:
    options = OPTIONS.get(format, {}) | ({"compression": how} if how in PACKED else {})
    make, expected = MODES[mode]
    for orientation in range(1, 9) if format in TURNED else (1,):
        turn = turn_by(format, orientation, how) if format in TURNED else {}
        pixels = decode_image(saved(make(orientation), format, **options, **turn), SIDE)
        off = abs(pixels.astype(int) - expected).max()
        assert off <= max(OFF.get(format, 0), OFF.get(mode, 0)), f"orientation {orientation}: {off}"


def turn_by(format: str, orientation: int, how: str) -> dict[str, object]:
    if how != "xmp":
        return {"exif": exif(orientation)}
    if format == "TIFF":
        return {"tiffinfo": {700: xmp(orientation)}}
    if format == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp(orientation).decode())
        return {"pnginfo": info}
    return {"xmp": xmp(orientation)}


def test_the_picture_is_another_one_under_each_orientation() -> None:
    assert len({turned(picture(), orientation).tobytes() for orientation in range(1, 9)}) == 8
    assert not np.array_equal(on_white(GREY), GREY)


DEEP: dict[str, tuple[Callable[[int], NDArray[np.generic]], dict[str, object], PixelRange | None]] = {
    "8 bits, signed": (lambda o: turned(picture() ^ 0x80, o).view(np.int8), {"sample_format": 2}, None),
    "16 bits": (wide, {}, None),
    "16 bits, signed": (lambda o: wide(o, "i4") - 32768, {"sample_format": 2}, None),
    "16 bits, values to 4095": (lambda o: wide(o, factor=16), {}, PixelRange(0, 4080)),
    "16 bits, the file says to 4080": (lambda o: wide(o, factor=16), {"tags": [(341, 3, [4080])]}, None),
    "32 bits": (lambda o: wide(o, "u4", 2**24), {"sample_format": 1}, PixelRange(0, 255 * 2**24)),
    "32 bits, signed": (lambda o: wide(o, "i4", 1) - 100, {"sample_format": 2}, PixelRange(-100, 155)),
    "floats": (lambda o: wide(o, "f4", 1) / np.float32(255), {"sample_format": 3}, PixelRange(0, 1)),
}


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("depth", DEEP)
def test_every_kind_of_grey_sample_in_tiff(depth: str, order: str, packed: bool, white_is_zero: bool) -> None:
    make, options, wanted = DEEP[depth]
    for orientation in range(1, 9):
        values = make(orientation)
        if values.dtype == np.int32 and depth.startswith("16"):
            values = values.astype(np.int16)
        tags = [*options.get("tags", ()), (274, 3, [orientation])]
        file = tiff(values, order, 0 if white_is_zero else 1, packed=packed, **(options | {"tags": tags}))
        expected = 255 - GREY if white_is_zero else GREY
        assert np.array_equal(decode_image(BytesIO(file), SIDE, pixel_range=wanted), expected), orientation


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("depth", [1, 4])
def test_small_depths_in_which_white_is_zero(depth: int, order: str, packed: bool) -> None:
    rows = np.packbits(bits(), axis=1) if depth == 1 else (picture()[:, ::2] // 17 << 4 | picture()[:, 1::2] // 17)
    expected = BLACK_AND_WHITE if depth == 1 else GREY
    for photometric, shown in ((1, expected), (0, 255 - expected)):
        file = tiff(rows.astype(np.uint8), order, photometric, packed=packed, bits=depth)
        assert np.array_equal(decode_image(BytesIO(file), SIDE), shown)


def test_fax_pages_in_which_white_is_zero() -> None:
    image = Image.fromarray(bits())
    for compression in ("group3", "group4", "packbits"):
        file = saved(image, "TIFF", compression=compression, tiffinfo={262: 0})
        assert np.array_equal(decode_image(file, SIDE), BLACK_AND_WHITE), compression


@pytest.mark.parametrize(("packed", "planes"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_colours_in_tiff(order: str, packed: bool, planes: bool) -> None:
    for orientation in (1, 6):
        stored = turned(colours(), orientation).astype(np.uint16)
        tags = [(274, 3, [orientation])]
        file = tiff(stored * 257, order, 2, packed=packed, planes=planes, tags=tags)
        assert np.array_equal(decode_image(BytesIO(file), SIDE), colours())
        if not planes:
            file = tiff(stored * 16, order, 2, packed=packed, tags=tags)
            assert np.array_equal(decode_image(BytesIO(file), SIDE, pixel_range=PixelRange(0, 4080)), colours())
            file = tiff(stored * 16, order, 2, packed=packed, tags=[*tags, (341, 3, [4080] * 3)])
            assert np.array_equal(decode_image(BytesIO(file), SIDE), colours())


def test_a_tiff_palette_of_bytes_in_fields_of_16_bits() -> None:
    numbers = np.arange(256)
    for factor in (1, 257):
        table = np.concatenate([numbers, numbers[::-1], numbers // 2]) * factor
        file = tiff(picture(), photometric=3, tags=[(320, 3, table.tolist())])
        pixels = decode_image(BytesIO(file), SIDE)
        assert np.array_equal(pixels, np.stack([picture(), 255 - picture(), picture() // 2], axis=2))


def test_premultiplied_alpha_in_tiff() -> None:
    grey = picture() * (half_clear() > 0)
    file = tiff(np.stack([grey, half_clear()], axis=2), tags=[(338, 3, [1])])
    assert np.array_equal(decode_image(BytesIO(file), SIDE), on_white(GREY))
    rgb = colours() * (half_clear() > 0)[..., None]
    file = tiff(np.dstack([rgb, half_clear()]), photometric=2, tags=[(338, 3, [1])])
    assert np.array_equal(decode_image(BytesIO(file), SIDE), on_white(colours()))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_transparent_grey_and_colour_of_a_png(dtype: type) -> None:
    factor = 257 if dtype is np.uint16 else 1
    grey, rgb = picture().astype(dtype) * factor, colours().astype(dtype) * factor
    grey[half_clear() == 0], rgb[half_clear() == 0] = 3, (3, 4, 5)
    grey[-1, -1] = 3 * 256 + 4 if factor > 1 else 5  # differs in its lower byte, or little
    rgb[-1, -1] = grey[-1, -1]
    shown = on_white(GREY)
    shown[-1, -1] = round(int(grey[-1, -1]) / factor)
    key = chunk(b"tRNS", b"\0\3")
    assert np.array_equal(decode_image(BytesIO(png(grey, chunks=[key])), SIDE), shown)
    shown = on_white(colours())
    shown[-1, -1] = round(int(grey[-1, -1]) / factor)
    key = chunk(b"tRNS", b"\0\3\0\4\0\5")
    assert np.array_equal(decode_image(BytesIO(png(rgb, 2, chunks=[key])), SIDE), shown)


def test_the_transparent_grey_of_a_png_of_4_bits() -> None:
    rows = picture()[:, ::2] // 17 << 4 | picture()[:, 1::2] // 17
    file = bytearray(png(rows, chunks=[chunk(b"tRNS", b"\0\2")]))
    head = bytes(file[16:24].replace(b"\0\0\0\x08", b"\0\0\0\x10", 1)) + bytes([4, 0, 0, 0, 0])
    file[8:33] = chunk(b"IHDR", head)
    shown = GREY.copy()
    shown[picture() == 34] = 255
    assert np.array_equal(decode_image(BytesIO(bytes(file)), SIDE), shown)


def test_cmyk_jpegs_are_inverted_as_adobe_writes_them() -> None:
    """The file as it is: its samples are ink from 255, none, to 0; the marker says so."""
    red = Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0))
    file = saved(red, "JPEG", quality=95)
    assert b"Adobe" in file.getvalue()
    assert abs(decode_image(file, SIDE).astype(int) - (255, 0, 0)).max() <= 3
    for mode in ("YCbCr", "RGB"):
        kept = saved(
            Image.fromarray(colours()).convert(mode), "JPEG", quality=95, subsampling=0, keep_rgb=mode == "RGB"
        )
        assert abs(decode_image(kept, SIDE).astype(int) - colours()).max() <= 10


def test_a_cmyk_tiff_that_is_packed_as_jpeg_is_not_inverted() -> None:
    red = Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0))
    pixels = decode_image(saved(red, "TIFF", compression="jpeg"), SIDE)
    assert abs(pixels.astype(int) - (255, 0, 0)).max() <= 3


def test_what_a_profile_says_is_not_looked_at() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for format in ("PNG", "TIFF", "JPEG", "WEBP"):
        image = Image.fromarray(colours())
        plain, marked = (saved(image, format, **options) for options in ({}, {"icc_profile": profile}))
        assert np.array_equal(decode_image(plain, SIDE), decode_image(marked, SIDE))
