from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from common.codecs.binary_fuse import build_filter
from common.codecs.png import image_shape, pack_png, unpack_png
from common.errors import BadImage


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize("size", [1, 2, 3, 12, 4096, 118_784, 999_999])
def test_round_trip_and_a_viewable_picture(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    png = pack_png(data)
    assert np.array_equal(unpack_png(png, size), data)
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == "L"
        assert (image.height, image.width) == image_shape(size)


@pytest.mark.parametrize("n", [100, 10_000, 300_000])
def test_png_is_never_larger_than_its_fingerprints_and_100_bytes(n: int) -> None:
    fingerprints = build_filter(np.arange(n, dtype=np.uint64) * np.uint64(37), 8).fingerprints
    assert len(pack_png(fingerprints)) <= len(fingerprints) + 100


def test_only_the_expected_image_is_read() -> None:
    data = np.arange(4096, dtype=np.uint8)
    png = pack_png(data)
    colour, bomb, text = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(colour, "PNG")
    Image.new("L", (20_000, 20_000)).save(bomb, "PNG")
    jpeg = io.BytesIO()
    Image.fromarray(data.reshape(64, 64)).save(jpeg, "JPEG")
    iend = png.index(b"IEND") - 4
    text.write(png[:iend] + chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 10**6)) + png[iend:])
    ihdr = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0))
    hostile = {
        "other size": pack_png(data[:2048]),
        "colour": colour.getvalue(),
        "bomb": bomb.getvalue(),
        "text chunk": text.getvalue(),
        "jpeg": jpeg.getvalue(),
        "cut": png[:-20],
        "empty": b"",
        "trailing bytes": png + b"x",
        "two images": png + png,
        "no data": b"\x89PNG\r\n\x1a\n" + ihdr + chunk(b"IEND", b""),
        "short data": b"\x89PNG\r\n\x1a\n" + ihdr + chunk(b"IDAT", zlib.compress(b"\0" * 65)) + chunk(b"IEND", b""),
        "damaged data": png[:60] + bytes([png[60] ^ 255]) + png[61:],
    }
    for name, bad in hostile.items():
        with pytest.raises(BadImage):
            raise AssertionError(f"{name} was read: {unpack_png(bad, 4096)[:4]}")
