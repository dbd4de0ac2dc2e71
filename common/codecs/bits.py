"""``bits``: the local mask as it is, one bit a position. What every code must stay below.

Body: the mask's bits, eight to a byte, the first one highest; what is left of the last byte is 0. The header's n is the
number of ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.codecs.base import Body, Bound, Codec
from common.codecs.state import SharedState
from common.errors import BadGeometry, ImplausibleDelta, TruncatedPayload

__all__ = ["Bits"]


class Bits(Codec):
    """The local mask, not compressed; ``keep`` is ignored, since there is no delta to choose from."""

    name = "bits"
    number = 8
    counts = "ones"

    def bound(self, theta_local: NDArray[np.float32], shared: SharedState) -> Bound | None:
        """One bit a position."""
        return Bound("1 bit each", float(shared.d))

    def describe(self, n: int, body: bytes) -> Body:
        """Explain a body."""
        return Body({}, {"mask bits": len(body)})

    def _encode_body(self, theta_local: NDArray[np.float32], shared: SharedState) -> tuple[int, bytes]:
        mask = shared.local_mask(theta_local)
        return int(np.count_nonzero(mask)), np.packbits(mask).tobytes()

    def _decode_body(self, n: int, body: bytes, shared: SharedState) -> NDArray[np.bool_]:
        size = -(-shared.d // 8)
        if len(body) != size:
            raise TruncatedPayload(f"{len(body)} bytes for {shared.d} mask bits; {size} are needed")
        bits = np.unpackbits(np.frombuffer(body, np.uint8))
        if bits[shared.d :].any():
            raise BadGeometry("the bits behind the mask are not 0")
        mask = bits[: shared.d].view(np.bool_)
        found = int(np.count_nonzero(mask))
        if found != n:
            raise ImplausibleDelta(f"the header says {n} ones and the mask holds {found}")
        return mask
