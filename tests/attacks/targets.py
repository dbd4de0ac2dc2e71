"""What the attacks start from: an honest payload of every codec, and what may become of a changed one."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pytest

from common.codecs import Codec, SharedState, codec_of, get_codec
from common.codecs.base import DeltaCodec
from common.errors import PayloadError
from common.wire import HEADER_BYTES
from tests.codecs.cases import repack, sent
from tests.conftest import local_step, shared_state

CODECS: dict[str, tuple[str, dict[str, object]]] = {
    "fuse8": ("fuse8", {}),
    "fuse8-all": ("fuse8", {"candidates": False}),
    "fuse16": ("fuse16", {}),
    "fuse32": ("fuse32", {}),
    "exact": ("exact", {}),
    "relative": ("relative", {"preset": "fast"}),
    "bitmap": ("bitmap", {}),
    "bits": ("bits", {}),
    "bloom": ("bloom", {}),
}
every_codec = pytest.mark.parametrize("name", CODECS)


@dataclass(frozen=True)
class Target:
    """An honest payload, and what its receiver knows."""

    codec: Codec
    shared: SharedState
    payload: bytes

    @property
    def n(self) -> int:
        return sent(self.payload)

    @property
    def body(self) -> bytes:
        return self.payload[HEADER_BYTES:]

    def repack(self, body: bytes, n: int | None = None) -> bytes:
        """Another body, or another n, under a checksum that fits: the codec's own checks are what is left."""
        return repack(self.codec, self.shared, self.n if n is None else n, body)


@functools.lru_cache
def target(name: str, d: int = 20_000) -> Target:
    """Theta after a few rounds, two layers, a local step at a fifth of the positions."""
    kind, options = CODECS[name]
    codec, theta = get_codec(kind, **options), shared_state(d).theta
    shared = SharedState(theta, seed=1, round=3, slot=2, segments=(d // 3, d - d // 3))
    return Target(codec, shared, codec.encode(local_step(theta, seed=5), shared))


def refused(attack: Target, payload: bytes) -> bool:
    """Whether a payload is refused as it must be; one that is not must be a mask within what its header allows.

    Anything but a PayloadError with a reason escapes, and fails the test.
    """
    try:
        mask = codec_of(payload).decode(payload, attack.shared)
    except PayloadError as error:
        if error.reason == PayloadError.reason:
            raise AssertionError(f"a reason of its own is missing: {error}") from error
        return True
    assert mask.shape == (attack.shared.d,)
    assert mask.dtype == np.bool_
    if isinstance(attack.codec, DeltaCodec):
        # A filter flips a few positions more than it has keys; one whose rate of mistakes is low, hardly any.
        mistakes = {"fuse8": 2.0**-8, "fuse16": 2.0**-16, "fuse32": 2.0**-32, "exact": 0.0, "bloom": 2.0**-6}
        mean = attack.shared.d * mistakes[attack.codec.name]
        flips = int(np.count_nonzero(mask != attack.shared.mask()))
        assert flips <= sent(payload) + mean + 6 * np.sqrt(mean) + 10, "more was flipped than the header says"
    return False
