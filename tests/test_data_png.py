"""PNG files whose pixels are fine, whatever else is in them; and files made to do harm."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from common.data.decode import decode_image
from common.data.png import read_png
from tests.pictures import SIDE, chunk, exif, picture, png, turned, xmp

GREY = np.repeat(picture()[..., None], 3, axis=2)
PACKED = zlib.compress(bytes(PngImagePlugin.MAX_TEXT_CHUNK + 1))
WRONG = chunk(b"tEXt", b"Comment\0x")[:-1] + b"\0"
TURN = exif(6).removeprefix(b"Exif\0\0")
NO_HARM = {
    "text": [chunk(b"tEXt", b"Comment\0" + bytes(2 * PngImagePlugin.MAX_TEXT_CHUNK))],
    "packed text": [chunk(b"zTXt", b"Comment\0\0" + PACKED)],
    "packed international text": [chunk(b"iTXt", b"Comment\0\1\0\0\0" + PACKED)],
    "packed orientation": [chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + PACKED)],
    "packed raw profile": [chunk(b"zTXt", b"Raw profile type exif\0\0" + PACKED)],
    "unknown packing": [chunk(b"zTXt", b"Comment\0\7x")],
    "colour profile": [chunk(b"iCCP", b"wide\0\0" + PACKED)],
    "many texts": [chunk(b"tEXt", b"Comment\0" + bytes(1 << 20))] * 65,
    "many orientations": [chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + bytes(1 << 18))] * 300,
    "wrong sum": [WRONG],
    "wrong sum of the orientation": [chunk(b"eXIf", TURN)[:-1] + b"\0"],
    "an animation out of order": [chunk(b"acTL", bytes([0, 0, 0, 2, 0, 0, 0, 0])), chunk(b"fcTL", bytes(26))],
    "unknown": [chunk(b"prVt", bytes(1 << 20))],
}


@contextmanager
def little_memory(most: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("what", NO_HARM)
def test_what_is_not_the_picture_keeps_none_out(what: str) -> None:
    limits = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    for file in (png(picture(), chunks=NO_HARM[what]), png(picture(), after=NO_HARM[what])):
        assert np.array_equal(decode_image(BytesIO(file), SIDE), GREY)
    assert limits == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)


@pytest.mark.parametrize(
    "turn",
    [
        chunk(b"eXIf", TURN),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp(6))),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n  9\n" + exif(6).hex().encode())),
    ],
)
def test_the_orientation_is_found_among_large_texts(turn: bytes) -> None:
    chunks = [NO_HARM["packed text"][0], turn, NO_HARM["packed text"][0]]
    stored = turned(picture(), 6)
    for file in (png(stored, chunks=chunks), png(stored, after=chunks)):
        assert np.array_equal(decode_image(BytesIO(file), SIDE), GREY)


def test_a_file_that_ends_within_a_text_behind_the_pixels_is_whole() -> None:
    whole = png(picture(), after=[chunk(b"tEXt", b"Comment\0" + bytes(5000))])
    assert np.array_equal(decode_image(BytesIO(whole[:-1000]), SIDE), GREY)


@pytest.mark.parametrize("length", [0, 5, 2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"tRNS", b"tEXt", b"iTXt", b"eXIf", b"IDAT", b"sBIT"])
def test_lengths_that_are_wrong_cost_no_memory(kind: bytes, length: int) -> None:
    file = png(picture())
    at = 8 if kind == b"IHDR" else file.index(b"IDAT") - 4
    wrong = file[:at] + struct.pack(">I", length) + kind + file[at:]
    with little_memory(20 << 20), pytest.raises(Exception):  # noqa: B017, Pillow raises many types
        decode_image(BytesIO(wrong), SIDE)


def test_every_cut_is_told_or_does_not_matter() -> None:
    file = png(picture(), chunks=[chunk(b"sBIT", b"\x08"), chunk(b"eXIf", TURN)])
    for end in range(len(file)):
        try:
            pixels = decode_image(BytesIO(file[:end]), SIDE)
        except Exception:
            continue
        assert end >= file.index(b"IDAT") + 4
        assert pixels.shape == (SIDE, SIDE, 3)


def test_large_chunks_are_not_read_to_be_left_out() -> None:
    file = BytesIO(png(picture(), chunks=[chunk(b"tEXt", b"Comment\0" + bytes(64 << 20))]))
    with little_memory(4 << 20):
        assert np.array_equal(decode_image(file, SIDE), GREY)


def test_a_file_in_very_many_parts_is_not_sorted_to_the_end() -> None:
    parts = [chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", b"")] * 1000
    sorted_file, _ = read_png(BytesIO(png(picture(), after=parts)))
    assert b"tEXt" in sorted_file.read()


def test_an_animation_shows_its_first_image() -> None:
    frames = [Image.fromarray(picture()), Image.fromarray(255 - picture())]
    file = BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    assert np.array_equal(decode_image(BytesIO(file.getvalue()), SIDE), GREY)
