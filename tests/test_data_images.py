"""Decoding: any size, mode and orientation becomes a square of 8-bit RGB."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.decode import decode_image
from common.data.encoded import Encoded, decode_all
from common.errors import DataError

GRADIENT = np.arange(48, dtype=np.uint8).reshape(1, 48).repeat(32, axis=0) * 5


def saved(image: Image.Image, format: str = "PNG", **options: object) -> BytesIO:
    file = BytesIO()
    image.save(file, format, **options)
    file.seek(0)
    return file


def test_the_central_square_is_kept_and_resized() -> None:
    pixels = decode_image(saved(Image.fromarray(GRADIENT)), 32)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    # 48 x 32: columns 8 .. 39 remain, at their own size.
    assert np.array_equal(pixels[..., 0], GRADIENT[:, 8:40])
    half = decode_image(saved(Image.fromarray(GRADIENT)), 16)[8, 4:12, 0].astype(float)
    np.testing.assert_allclose(half, GRADIENT[0, 8:40].reshape(16, 2).mean(1)[4:12], atol=1)
    assert decode_image(saved(Image.fromarray(GRADIENT)), 64).shape == (64, 64, 3)


def test_an_image_of_the_right_size_is_not_touched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    assert np.array_equal(decode_image(saved(Image.fromarray(pixels)), 28), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("RGB", (20, 30), (255, 255, 255)).convert(mode)
    pixels = decode_image(saved(image, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"), 16)
    assert pixels.shape == (16, 16, 3)
    assert pixels.min() >= 250


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bits_are_scaled_and_not_clipped(format: str) -> None:
    values = np.linspace(0, 65535, 16 * 16).astype(np.uint16).reshape(16, 16)
    pixels = decode_image(saved(Image.fromarray(values), format), 16)[..., 0]
    np.testing.assert_allclose(pixels, values / 257, atol=0.51)


def test_values_without_a_known_range_are_refused() -> None:
    with pytest.raises(DataError, match="no known range"):
        decode_image(saved(Image.fromarray(np.full((8, 8), 0.5, np.float32)), "TIFF"), 8)
    with pytest.raises(DataError, match="32-bit pixels have no known range"):
        decode_image(saved(Image.fromarray(np.full((8, 8), -5, np.int32)), "TIFF"), 8)


def test_transparency_becomes_white() -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, 4:] = (10, 20, 30, 255)
    pixels = decode_image(saved(Image.fromarray(rgba)), 8)
    assert (pixels[:, :4] == 255).all()
    assert (pixels[:, 4:] == (10, 20, 30)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    upright = np.zeros((16, 16), np.uint8)
    upright[:8, :4] = 255  # bright at the top left, higher than wide
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode_image(saved(Image.fromarray(np.ascontiguousarray(turned)), exif=exif.tobytes()), 16)
    assert np.array_equal(pixels[..., 0], upright)


def test_large_photos_are_decoded_at_a_reduced_size_to_the_same_picture() -> None:
    grid = np.kron(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8), np.ones((128, 128), np.uint8))
    photo = Image.fromarray(grid)
    reduced = decode_image(saved(photo, "JPEG", quality=95), 64).astype(int)
    full = decode_image(saved(photo, "PNG"), 64).astype(int)
    assert np.abs(reduced - full).mean() < 2


def bomb(side: int) -> BytesIO:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return BytesIO(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 60_000])
def test_images_that_claim_too_many_pixels_are_not_decoded(side: int) -> None:
    with pytest.raises((DataError, Image.DecompressionBombError)):
        decode_image(bomb(side), 16)


def test_a_thin_strip_takes_no_more_memory_than_a_square() -> None:
    assert decode_image(saved(Image.new("L", (60_000, 1))), 224).shape == (224, 224, 3)


def test_other_formats_are_not_even_tried() -> None:
    with pytest.raises(Image.UnidentifiedImageError):
        decode_image(saved(Image.new("L", (8, 8)), "EPS"), 8)


def test_broken_images_are_left_out_named_and_the_rest_kept_on_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = saved(Image.fromarray(GRADIENT)).getvalue()
    jpeg = saved(Image.fromarray(GRADIENT), "JPEG").getvalue()
    contents = {"good": good, "cut": jpeg[: len(jpeg) // 2], "empty": b"", "text": b"no image", "also good": jpeg}
    opened: list[str] = []

    def item(name: str) -> Encoded:
        def content() -> BytesIO:
            opened.append(name)
            return BytesIO(contents[name])

        return Encoded(name, contents[name], content)

    items = [item(name) for name in contents]
    images, kept, _ = decode_all(items, 16, tmp_path)
    assert kept.tolist() == [0, 4]
    assert images.shape == (2, 16, 16, 3)
    assert "3 of 5 images cannot be read" in caplog.text
    assert all(f"{name} (" in caplog.text for name in ("cut", "empty", "text"))

    opened.clear()
    again, kept_again, _ = decode_all(items, 16, tmp_path)
    assert not opened, "decoded again"
    assert np.array_equal(again, images)
    assert np.array_equal(kept_again, kept)
    contents["good"] = saved(Image.fromarray(255 - GRADIENT)).getvalue()
    changed = decode_all([item(name) for name in contents], 16, tmp_path).pixels
    assert not np.array_equal(changed[0], images[0])
    assert decode_all(items, 8, tmp_path)[0].shape == (2, 8, 8, 3)


def test_without_a_cache_the_images_are_the_same(tmp_path: Path) -> None:
    items = [Encoded("a", b"a", lambda: saved(Image.fromarray(GRADIENT)))]
    cached, _, _ = decode_all(items, 16, tmp_path / "cache")
    (tmp_path / "file").write_text("in the way")
    images, kept, _ = decode_all(items, 16, tmp_path / "file")
    assert np.array_equal(images, cached)
    assert kept.tolist() == [0]
