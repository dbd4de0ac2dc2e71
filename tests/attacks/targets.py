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
    check_mask(mask, payload, attack.shared)
    return False


def check_mask(mask: np.ndarray, payload: bytes, shared: SharedState) -> None:
    """That a decoded mask is one, and flips no more positions than its payload's header allows."""
    assert mask.shape == (shared.d,)
    assert mask.dtype == np.bool_
    if isinstance(codec_of(payload), DeltaCodec):
        # A filter flips a few positions more than it has keys; one whose rate of mistakes is low, hardly any.
        mean = shared.d * mistakes(payload)
        flips = int(np.count_nonzero(mask != shared.mask()))
        assert flips <= sent(payload) + mean + 6 * np.sqrt(mean) + 10, "more was flipped than the header says"


def mistakes(payload: bytes) -> float:
    """The share of positions that a delta's filter may match by mistake (docs/wire-format.md)."""
    name, n, body = codec_of(payload).name, sent(payload), payload[HEADER_BYTES:]
    if name != "bloom":
        return {"fuse8": 2.0**-8, "fuse16": 2.0**-16, "fuse32": 2.0**-32, "exact": 0.0}[name]
    if n == 0:
        return 0.0
    hashes, ones = body[0], int.from_bytes(body[1:], "little").bit_count()
    size = max(8, (94_549 * n * hashes >> 16) + 1)
    return min(1.0, (ones / size) ** hashes * (1 + 2000 / size))
