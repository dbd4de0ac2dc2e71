"""Decode attacks on some codecs in a process of its own, and print how much memory each attack took.

    python -m tests.attacks.decode_many D CODEC ...

Writes a line of JSON for each attack: codec, attack, bytes of the payload, bytes of memory, seconds. A process of its
own can be ended when it hangs, and its peak of memory is the decoder's, zlib's and Pillow's included.
"""

from __future__ import annotations

import json
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.codecs.fuse import FuseCodec
from common.codecs.png import image_shape, pack_png
from common.wire import max_payload_bytes
from tests.attacks.targets import Target, refused, target
from tests.attacks.test_bit_flips import mutations


def attacks(attack: Target) -> Iterator[tuple[str, bytes]]:
    """Payloads that ask for as much as their header allows."""
    d, room = attack.shared.d, max_payload_bytes(attack.shared.d) - 34
    yield "honest", attack.payload
    for number, payload in enumerate(mutations(attack, 15)):
        yield f"mutation {number}", payload
    for n in (1, 64, d // 2, d):
        yield f"zeros for {n}", attack.repack(bytes(room), n)
        yield f"ones for {n}", attack.repack(b"\xff" * room, n)
        yield f"one byte for {n}", attack.repack(b"\1", n)
        yield f"honest front for {n}", attack.repack(attack.body[:8], n)
    if isinstance(attack.codec, FuseCodec):
        yield from images(attack, room)
    if attack.codec.name == "exact":
        for layout in (12, 24):
            yield f"every context of layout {layout}", attack.repack(struct.pack("<BH", layout, 65_535), d)
    if attack.codec.name == "relative":
        yield "a block of every position", attack.repack(bytes([14, 1, 255, 255]) + bytes(-(-14 * d // 8)), d)
    if attack.codec.name == "bloom":
        for hashes in (1, 32):
            size = -(-((d * hashes * 94_549 >> 16) + 1) // 8)
            yield f"{hashes} hashes for every position", attack.repack(bytes([hashes]) + b"\x55" * size, d)


def images(attack: Target, room: int) -> Iterator[tuple[str, bytes]]:
    """The largest arrays for n keys: of zeros, which deflate to nothing, of noise, and in pieces of a byte."""
    assert isinstance(attack.codec, FuseCodec)
    d, width = attack.shared.d, attack.codec.bits // 8
    for n in (64, d // 8, d):
        length = 1 << min(18, (8 * n).bit_length() - 2)
        count = 8 * n // length - 2
        front, size = struct.pack("<QBI", 1, length.bit_length() - 1, count), (count + 2) * length * width
        yield f"bomb of {size} zeros for {n}", attack.repack(front + pack_png(np.zeros(size, np.uint8)), n)
        noise = np.random.default_rng(0).integers(0, 256, min(size, room - 200), dtype=np.uint8)
        if len(noise) == size:
            yield f"noise of {size} for {n}", attack.repack(front + pack_png(noise), n)
    height, across = image_shape(size)
    pieces = chunk(b"IDAT", b"x") * ((room - 100) // 13)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", across, height, 8, 0, 0, 0, 0))
    yield "pieces", attack.repack(front + b"\x89PNG\r\n\x1a\n" + header + pieces + chunk(b"IEND", b""), d // 8)
    yield "pieces for all", attack.repack(front + b"\x89PNG\r\n\x1a\n" + header + pieces + chunk(b"IEND", b""), d)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def memory(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at its highest since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def main() -> None:
    for codec in sys.argv[2:]:
        attack = target(codec, d=int(sys.argv[1]))
        attack.codec.decode(attack.payload, attack.shared)  # compiled code, tables, uniforms
        for name, payload in attacks(attack):
            Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts again from here
            before, begun = memory("VmRSS"), time.perf_counter()
            refused(attack, payload)
            row = {"codec": codec, "attack": name, "payload": len(payload), "memory": memory("VmHWM") - before}
            print(json.dumps(row | {"seconds": round(time.perf_counter() - begun, 3)}), flush=True)


if __name__ == "__main__":
    main()
