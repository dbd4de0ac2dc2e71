"""The attacker sends an image that unpacks to gigabytes, or one that makes the image library do something else.

The filter's geometry fixes the only image that is allowed, byte for byte of its header, and how much may be inflated;
Pillow sees the file when everything else about it has been checked.
"""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from common.codecs.png import image_shape, pack_png, unpack_png
from common.errors import BadImage, PayloadError
from tests.attacks.targets import target

SIZE = 4096
DATA = np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)
HEIGHT, WIDTH = image_shape(SIZE)
ROWS = b"".join(b"\0" + row.tobytes() for row in DATA.reshape(HEIGHT, WIDTH))
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def ihdr(
    width: int = WIDTH, height: int = HEIGHT, depth: int = 8, colour: int = 0, packing: int = 0, interlace: int = 0
) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, packing, 0, interlace))


def image(*chunks: bytes, header: bytes | None = None) -> bytes:
    return SIGNATURE + (ihdr() if header is None else header) + b"".join(chunks) + chunk(b"IEND")


def idat(rows: bytes = ROWS) -> bytes:
    return chunk(b"IDAT", zlib.compress(rows))


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def animated() -> bytes:
    frames = [Image.fromarray(DATA.reshape(HEIGHT, WIDTH) + np.uint8(k)) for k in range(3)]
    return saved(frames[0], save_all=True, append_images=frames[1:])


STREAM = zlib.compress(ROWS)
HOSTILE = {
    "nothing": b"",
    "only a signature": SIGNATURE,
    "no chunk but the end": SIGNATURE + chunk(b"IEND"),
    "another format": saved(Image.fromarray(DATA.reshape(HEIGHT, WIDTH)), "JPEG"),
    "cut": image(idat())[:-20],
    "other size": pack_png(DATA[:2048]),
    "width and height swapped": image(idat(), header=ihdr(HEIGHT // 2, 2 * WIDTH)),
    "huge dimensions": image(idat(), header=ihdr(2**31 - 1, 2**31 - 1)),
    "no width": image(idat(), header=ihdr(0, HEIGHT)),
    "16 bits": image(idat(), header=ihdr(depth=16)),
    "1 bit": image(idat(), header=ihdr(depth=1)),
    "colour": image(idat(), header=ihdr(colour=2)),
    "palette": image(chunk(b"PLTE", bytes(768)), idat(), header=ihdr(colour=3)),
    "interlaced": image(idat(), header=ihdr(interlace=1)),
    "another packing": image(idat(), header=ihdr(packing=1)),
    "header too long": image(idat(), header=chunk(b"IHDR", struct.pack(">IIBBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0, 0))),
    "header twice": image(ihdr(), idat()),
    "header last": SIGNATURE + idat() + ihdr() + chunk(b"IEND"),
    "no data": image(),
    "empty data": image(chunk(b"IDAT")),
    "data after the end": image(idat()) + idat(),
    "trailing bytes": image(idat()) + b"x",
    "two images": image(idat()) * 2,
    "bytes in the end": SIGNATURE + ihdr() + idat() + chunk(b"IEND", b"hidden"),
    "text": image(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**6))), idat()),
    "colour profile": image(chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(10**6))), idat()),
    "gamma": image(chunk(b"gAMA", bytes(4)), idat()),
    "unknown critical chunk": image(chunk(b"ABCD", bytes(4)), idat()),
    "animation": animated(),
    "animation control": image(chunk(b"acTL", struct.pack(">II", 10**6, 0)), idat()),
    "text after the data": image(idat(), chunk(b"tEXt", b"k\0v")),
    "length beyond the end": SIGNATURE + ihdr() + struct.pack(">I", 2**32 - 1) + b"IDAT" + STREAM,
    "wrong checksum of the header": image(idat(), header=ihdr()[:-1] + b"\0"),
    "a row too few": image(idat(ROWS[: -WIDTH - 1])),
    "a byte too few": image(idat(ROWS[:-1])),
    "a byte too many": image(idat(ROWS + b"\0")),
    "another stream behind the first": image(chunk(b"IDAT", STREAM + STREAM)),
    "bytes behind the stream": image(chunk(b"IDAT", STREAM + b"hidden")),
    "stream cut": image(chunk(b"IDAT", STREAM[:-1])),
    "wrong checksum of the stream": image(chunk(b"IDAT", STREAM[:-1] + b"\0")),
    "not deflated": image(chunk(b"IDAT", ROWS)),
    "needs a dictionary": image(chunk(b"IDAT", b"\x78\xbb" + bytes(4) + STREAM[2:])),
    "unknown line filter": image(idat(b"\7" + ROWS[1:])),
}


def test_what_is_changed_below_is_read_unchanged() -> None:
    for png in (image(idat()), image(chunk(b"IDAT", STREAM[:99]), chunk(b"IDAT", STREAM[99:])), pack_png(DATA)):
        assert np.array_equal(unpack_png(png, SIZE), DATA)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_other_image_is_read(name: str) -> None:
    with pytest.raises(BadImage):
        unpack_png(HOSTILE[name], SIZE)


@pytest.mark.parametrize("zeros", [10**7, 10**8])
def test_a_bomb_is_inflated_to_the_size_expected_and_no_further(zeros: int) -> None:
    bomb = image(idat(bytes(zeros)))
    tracemalloc.start()
    try:
        with pytest.raises(BadImage):
            unpack_png(bomb, SIZE)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(bomb) + 2**20
    finally:
        tracemalloc.stop()


def test_an_image_in_a_million_pieces_costs_no_more_than_it_sends() -> None:
    """Joining pieces one by one takes time that grows with their square: their number is limited."""
    pieces = b"".join(chunk(b"IDAT", STREAM[i : i + 1]) for i in range(len(STREAM)))
    empty = chunk(b"IDAT") * 500_000
    for png in (image(pieces), image(empty, idat()), image(idat(), empty)):
        with pytest.raises(BadImage, match="chunks"):
            unpack_png(png, SIZE)


def test_a_small_image_for_many_keys_is_not_even_inflated() -> None:
    """Fingerprints are random: a file that is shorter than they are is a bomb, or holds fewer."""
    attack = target("fuse32", d=200_000)
    n, length, count = 200_000, 2**12, 2**6
    body = struct.pack("<QBI", 1, length.bit_length() - 1, count) + pack_png(np.zeros(4 * (count + 2) * length, "u1"))
    tracemalloc.start()
    try:
        with pytest.raises(PayloadError, match="an image of"):
            attack.codec.decode(attack.repack(body, n), attack.shared)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
