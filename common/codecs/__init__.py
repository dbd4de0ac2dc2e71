"""Codecs: how a local update travels. One file a codec; `get_codec` finds one by its name in the run config.

>>> import numpy as np
>>> from common.codecs import SharedState, get_codec
>>> shared = SharedState(theta=np.full(10_000, 62_259, np.uint16), seed=1, round=1, slot=0)
>>> theta_local = np.full(10_000, 0.9, np.float32)
>>> payload = get_codec("fuse16").encode(theta_local, shared)
>>> mask = get_codec("fuse16").decode(payload, shared)
>>> bool(np.all(mask[shared.local_mask(theta_local) != shared.mask()] == 0))
True
"""

from __future__ import annotations

from typing import Any

from common.codecs.base import Codec
from common.codecs.bitmap import Bitmap
from common.codecs.bits import Bits
from common.codecs.bloom import Bloom
from common.codecs.exact import Exact
from common.codecs.fuse import Fuse8, Fuse16, Fuse32
from common.codecs.relative import Relative
from common.codecs.state import SharedState
from common.errors import ConfigError, WrongFormat
from common.wire import peek_codec

__all__ = ["CODECS", "Codec", "SharedState", "available_codecs", "codec_of", "get_codec"]

CODECS: dict[str, type[Codec]] = {
    codec.name: codec for codec in (Fuse8, Fuse16, Fuse32, Exact, Relative, Bitmap, Bits, Bloom)
}


def available_codecs(samples: bool = True) -> tuple[str, ...]:
    """Names that `get_codec` knows; without those whose payload is a sample, if asked so."""
    return tuple(name for name, codec in CODECS.items() if samples or not codec.samples)


def get_codec(name: str, keep: float = 1.0, **options: Any) -> Codec:
    """Make a codec.

    Parameters
    ----------
    name
        One of `available_codecs`.
    keep
        kappa of this call, in (0, 1].
    options
        What the codec's class takes beside ``keep``; the defaults serve.

    Raises
    ------
    ConfigError
        If there is no codec of this name, or an option has a value out of range.
    """
    if name not in CODECS:
        raise ConfigError(f"codec = {name!r}: there is no such codec; choose one of {', '.join(CODECS)}")
    return CODECS[name](keep=keep, **options)


def codec_of(payload: bytes) -> Codec:
    """The codec that a payload names, to decode it with: clients of one run may use different ones.

    Raises
    ------
    TruncatedPayload, WrongFormat
        If the payload names none.
    """
    number = peek_codec(payload)
    for codec in CODECS.values():
        if codec.number == number:
            return codec()
    raise WrongFormat(f"codec {number}: there is no such codec")
