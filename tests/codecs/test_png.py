from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from common.codecs.binary_fuse import build_filter
from common.codecs.png import image_shape, pack_png, unpack_png


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
