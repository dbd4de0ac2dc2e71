"""Pixels of more than 8 bits: which values are black and white, by the file, or by pixel-range."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from common.config.node import parse_node_config
from common.config.run import parse_run_config
from common.data import open_split
from common.data.decode import decode_image
from common.data.pixel_range import PixelRange, read_pixel_range, to_bytes
from common.errors import ConfigError, DataError
from tests.pictures import SIDE, chunk, colours, half_clear, on_white, picture, png, saved, tiff

GREY = np.repeat(picture()[..., None], 3, axis=2)
LOW = picture().astype(np.uint16) // 17 * 273
"""The picture in 12 bits, 0 .. 4095."""
TWELVE = PixelRange(0, 4095)


def pgm(values: NDArray[np.uint16], largest: int, plain: bool = False) -> BytesIO:
    data = " ".join(map(str, values.ravel())).encode() if plain else values.astype(">u2").tobytes()
    return BytesIO(f"P{2 if plain else 5} {SIDE} {SIDE} {largest}\n".encode() + data)


def decoded(file: bytes | BytesIO, pixel_range: PixelRange | None = None) -> NDArray[np.uint8]:
    return decode_image(BytesIO(file) if isinstance(file, bytes) else file, SIDE, pixel_range=pixel_range)


def test_the_file_says_how_many_bits_there_are() -> None:
    assert np.array_equal(decoded(png(LOW, chunks=[chunk(b"sBIT", b"\x0c")])), GREY)
    assert np.array_equal(decoded(tiff(LOW, tags=[(341, 3, [4095])])), GREY)
    assert np.array_equal(decoded(pgm(LOW, 4095)), GREY)
    assert np.array_equal(decoded(pgm(LOW, 4095, plain=True)), GREY)
    assert decoded(png(LOW)).max() < 17, "nothing says so"
    packed = np.zeros((SIDE, SIDE // 2, 3), np.uint8)  # two samples in three bytes
    packed[..., 0], packed[..., 1] = LOW[:, ::2] >> 4, (LOW[:, ::2] & 15) << 4 | LOW[:, 1::2] >> 8
    packed[..., 2] = LOW[:, 1::2] & 255
    assert np.array_equal(decoded(tiff(packed.reshape(SIDE, -1), bits=12)), GREY)


def test_samples_that_are_scaled_up_as_png_asks_are_not_stretched_again() -> None:
    mark = [chunk(b"sBIT", b"\x0c")]
    assert np.array_equal(decoded(png(LOW << 4 | LOW >> 8, chunks=mark)), GREY)
    dark = LOW // 16  # the darkest sixteenth, which has no value above 4095 when it is scaled
    for scaled in (dark << 4, dark << 4 | dark >> 8, np.rint(dark * (65535 / 4095)).astype(np.uint16)):
        assert decoded(png(scaled, chunks=mark)).max() <= 17


@pytest.mark.parametrize("wrong", [(341, 3, [0]), (341, 12, [float("nan")]), (341, 12, [float("inf")])])
def test_a_range_that_makes_no_sense_is_not_taken(wrong: tuple) -> None:
    values = picture().astype(np.uint16) * 257
    assert np.array_equal(decoded(tiff(values, tags=[wrong])), GREY)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_range_in_the_config_counts_before_what_the_file_says(order: str) -> None:
    for file in (
        png(LOW),
        png(LOW, chunks=[chunk(b"sBIT", b"\x0e")]),
        tiff(LOW, order),
        tiff(LOW, order, tags=[(341, 3, [9999])]),
        pgm(LOW, 4095),
        pgm(LOW, 9999),
        pgm(LOW, 65535),
        pgm(LOW, 9999, plain=True),
    ):
        assert np.array_equal(decoded(file, TWELVE), GREY)
    assert np.array_equal(decoded(png(picture().astype(np.uint16)), PixelRange(0, 255)), GREY)


def test_values_outside_are_clipped() -> None:
    values = np.array([-1000, -160, 40, 240, 3000], np.int16)
    expected = [0, 0, 128, 255, 255]
    assert to_bytes(values, PixelRange(-160, 240)).tolist() == expected
    file = tiff(np.tile(values, (5, 1)), sample_format=2)
    assert decode_image(BytesIO(file), 5, pixel_range=PixelRange(-160, 240))[0, :, 0].tolist() == expected
    odd = np.array([np.nan, -np.inf, np.inf, 0.5], np.float32)
    assert to_bytes(odd, PixelRange(0, 1)).tolist() == [0, 0, 255, 128]


def test_16_bits_are_scaled_to_the_nearest_byte() -> None:
    values = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(to_bytes(values, PixelRange(0, 65535)), (values.astype(int) * 255 + 32767) // 65535)


def test_pixels_without_a_range_are_refused_and_the_error_names_the_key() -> None:
    for file, what in (
        (tiff(picture().astype(np.float32), sample_format=3), "floating-point"),
        (tiff(picture().astype(np.uint32)), "32-bit"),
        (tiff(picture().astype(np.int32), sample_format=2), "32-bit"),
        (f"Pf {SIDE} {SIDE} -1.0\n".encode() + picture()[::-1].astype("<f4").tobytes(), "floating-point"),
    ):
        with pytest.raises(DataError, match=f"{what} pixels have no known range; set pixel-range"):
            decoded(file)
        assert np.array_equal(decoded(file, PixelRange(0, 255)), GREY)


def test_16_bit_colours_and_alpha_in_png() -> None:
    solid = half_clear().astype(np.uint16) * 257
    rgb = colours().astype(np.uint16)
    for factor, wanted, mark in ((257, None, []), (16, PixelRange(0, 4080), [])):
        grey = picture().astype(np.uint16) * factor
        assert np.array_equal(decoded(png(rgb * factor, 2, mark), wanted), colours())
        assert np.array_equal(decoded(png(np.dstack([rgb * factor, solid]), 6), wanted), on_white(colours()))
        assert np.array_equal(decoded(png(np.dstack([grey, solid]), 4), wanted), on_white(GREY))
    twelve = rgb // 17 * 273
    assert np.array_equal(decoded(png(twelve, 2, [chunk(b"sBIT", b"\x0c\x0c\x0c")])), colours())


def test_images_of_8_bits_are_as_they_are() -> None:
    for image in (Image.fromarray(picture()), Image.fromarray(colours())):
        for format in ("PNG", "TIFF", "BMP", "PPM"):
            assert np.array_equal(decoded(saved(image, format), TWELVE), decoded(saved(image, format)))


def test_the_config_value() -> None:
    assert read_pixel_range("auto") is None
    for text, expected in (("0..4095", (0, 4095)), ("-160..240", (-160, 240)), (" 0.5 .. 1e3 ", (0.5, 1000))):
        assert read_pixel_range(text) == expected
    for wrong in ("", "4095", "0-4095", "4095..0", "1..1", "0..inf", "nan..1", "a..b", "-1e308..1e308", "0..1..2"):
        for parsed, values in (
            (parse_run_config, {"pixel-range": wrong}),
            (parse_node_config, {"partition-id": 0, "num-partitions": 1, "pixel-range": wrong}),
        ):
            with pytest.raises(ConfigError, match=r"pixel-range = .*: choose auto, or two numbers as in 0\.\.4095"):
                parsed(values)
    assert parse_run_config({"pixel-range": "0..4095"}).data.black_and_white == TWELVE
    assert parse_run_config({}).data.black_and_white is None


def test_a_folder_is_decoded_anew_under_another_range(tmp_path: Path) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "1.png").write_bytes(png(LOW))

    def read(pixel_range: PixelRange | None) -> tuple[NDArray[np.uint8], bytes]:
        split = open_split(
            f"folder:{tmp_path / 'data'}", "train", SIDE, tmp_path / "cache", own=True, pixel_range=pixel_range
        )
        loaded = split.load(np.arange(1))
        return np.array(loaded.images[0]), loaded.identity

    (dark, first), (bright, second) = read(None), read(TWELVE)
    assert dark.max() < 17
    assert np.array_equal(bright, GREY)
    assert first != second
    assert np.array_equal(read(None)[0], dark)
