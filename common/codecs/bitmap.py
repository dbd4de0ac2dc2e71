"""``bitmap``: the whole local mask, entropy-coded, as FedPM sends it (Isik et al., arXiv 2209.15328). The reference
that a delta is measured against.

No shared randomness helps it: the mask is coded layer by layer with the layer's own share of ones, which is what
FedPM's arithmetic coder learns. So it costs about H(theta) bits a position, and nothing is selected: kappa does not
apply.

Body: share of ones of each layer in 1/65,536 (2 bytes a layer), then the entropy-coded words of all layers. The
header's n is the number of ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.codecs.base import Body, Bound, Codec, entropy_bits
from common.codecs.bit_stack import PRECISION, BitStack
from common.codecs.state import SharedState
from common.errors import ImplausibleDelta, TruncatedPayload

__all__ = ["Bitmap"]

_SHARE_BITS = 16


class Bitmap(Codec):
    """Entropy-coded local mask; ``keep`` is ignored, since there is no delta to choose from."""

    name = "bitmap"
    number = 6
    counts = "ones"

    def bound(self, theta_local: NDArray[np.float32], shared: SharedState) -> Bound | None:
        """The entropy of the mask, if each layer's share of ones is known."""
        lengths = _lengths(shared)
        ones = _ones(shared.local_mask(theta_local), lengths)
        return Bound("mask entropy", sum(map(entropy_bits, ones.tolist(), lengths.tolist())))

    def describe(self, n: int, body: bytes) -> Body:
        """Explain a body: only who knows the number of layers can tell their shares from the words that follow."""
        if len(body) < 2:
            raise TruncatedPayload(f"{len(body)} bytes; the share of a layer alone has 2")
        share = int.from_bytes(body[:2], "little") / (1 << _SHARE_BITS)
        return Body({"first layer": f"{share:.4f} ones"}, {"shares and entropy-coded words": len(body)})

    def _encode_body(self, theta_local: NDArray[np.float32], shared: SharedState) -> tuple[int, bytes]:
        mask = shared.local_mask(theta_local)
        lengths = _lengths(shared)
        ones = _ones(mask, lengths)
        # Each layer's share of ones, rounded to the grid. A share of exactly 1 is not on it: the grid's largest value
        # stands for it.
        shares = np.minimum(((ones << (_SHARE_BITS + 1)) + lengths) // (2 * lengths), (1 << _SHARE_BITS) - 1)
        stack = BitStack()
        stack.push_runs(mask.view(np.uint8), lengths, _numerators(shares))
        return int(ones.sum()), shares.astype("<u2").tobytes() + stack.to_bytes()

    def _decode_body(self, n: int, body: bytes, shared: SharedState) -> NDArray[np.bool_]:
        lengths = _lengths(shared)
        if len(body) < 2 * len(lengths):
            raise TruncatedPayload(f"{len(body)} bytes for the shares of {len(lengths)} layers")
        shares = np.frombuffer(body, dtype="<u2", count=len(lengths)).astype(np.int64)
        stack = BitStack(body[2 * len(lengths) :])
        mask = stack.pop_runs(lengths, _numerators(shares)).view(np.bool_)
        stack.check_empty()
        found = int(np.count_nonzero(mask))
        if found != n:
            raise ImplausibleDelta(f"the header says {n} ones and the mask holds {found}")
        return mask


def _lengths(shared: SharedState) -> NDArray[np.int64]:
    """Sizes of the layers that are not empty."""
    sizes = np.array(shared.segments, dtype=np.int64)
    return sizes[sizes > 0]


def _ones(mask: NDArray[np.bool_], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ones of each layer."""
    ones: NDArray[np.int64] = np.add.reduceat(mask, np.cumsum(lengths) - lengths, dtype=np.int64)
    return ones


def _numerators(shares: NDArray[np.int64]) -> NDArray[np.int64]:
    numerators: NDArray[np.int64] = np.maximum(shares << (PRECISION - _SHARE_BITS), 1)
    return numerators
