"""How Pillow is told to unpack samples: the tiles of an image that is opened and not yet loaded."""

from __future__ import annotations

from typing import Any

__all__ = ["with_raw_mode"]


def with_raw_mode(tile: Any, raw: str) -> Any:
    """A tile whose bytes are taken for other samples.

    Parameters
    ----------
    tile
        Codec, extents, offset and arguments, of which the raw mode is the first, or the only one; a plain tuple in
        older versions of Pillow.
    raw
        A raw mode that has as many bits for each pixel.
    """
    args = (raw, *tile[3][1:]) if isinstance(tile[3], tuple) else raw
    return tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args)
