"""Theta by itself, for clients that hold no version of it: ``float32`` and ``quantised``."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.downlink.palette import pack_palette, palette_of, read_palette
from common.downlink.version import FLOAT32, QUANTISED, pack_step
from common.entropy import decode_symbols, encode_symbols
from common.errors import BadGeometry, TruncatedPayload
from common.theta import Version, probabilities, quantise

__all__ = ["pack_float32", "pack_quantised", "unpack_float32", "unpack_quantised"]


def pack_float32(version: Version) -> bytes:
    """Theta as float32 probabilities; exact, since the grid is."""
    return pack_step(FLOAT32, version, None, probabilities(version.theta).astype("<f4").tobytes())


def unpack_float32(body: bytes, d: int) -> NDArray[np.uint16]:
    """Read what `pack_float32` wrote; raises PayloadError."""
    if len(body) != 4 * d:
        raise TruncatedPayload(f"{len(body)} bytes of float32 theta; {4 * d} expected")
    values = np.frombuffer(body, "<f4")
    if not (np.isfinite(values).all() and (values >= 0).all() and (values <= 1).all()):
        raise BadGeometry("a probability is not in [0, 1]")
    return quantise(values)


def pack_quantised(version: Version, segments: Sequence[int]) -> bytes:
    """Theta as grid values, each layer with frequencies of its own."""
    values, symbols = palette_of(version.theta)
    if values is None:
        return pack_step(QUANTISED, version, None, b"\0\0" + zlib.compress(version.theta.astype("<u2").tobytes()))
    body = encode_symbols(symbols, _layers(segments), len(values), len(segments))
    return pack_step(QUANTISED, version, None, pack_palette(values) + body)


def unpack_quantised(body: bytes, d: int, segments: Sequence[int]) -> NDArray[np.uint16]:
    """Read what `pack_quantised` wrote; raises PayloadError."""
    if body[:2] == b"\0\0":
        try:
            inflater = zlib.decompressobj()
            raw = inflater.decompress(body[2:], 2 * d + 1)
        except zlib.error as error:
            raise BadGeometry(f"theta cannot be inflated: {error}") from error
        if len(raw) != 2 * d or not inflater.eof or inflater.unused_data:
            raise TruncatedPayload(f"{len(raw)} bytes of theta; {2 * d} expected")
        return np.frombuffer(raw, "<u2").astype(np.uint16)
    palette, rest = read_palette(body)
    return palette[decode_symbols(rest, _layers(segments), len(palette), len(segments))]


def _layers(segments: Sequence[int]) -> NDArray[np.uint16]:
    return np.repeat(np.arange(len(segments), dtype=np.uint16), segments)
