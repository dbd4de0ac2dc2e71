"""Bits with known probabilities to bytes and back: the ANS coder of ``constriction`` (Bamler 2022), with probabilities
that are integers.

A probability is a numerator over 2^24, the coder's own precision, and is passed as that exact fraction; what the coder
computes from it are single additions, multiplications and divisions, which IEEE 754 rounds the same way everywhere. So
two machines never disagree on a model. Measured loss: about 10^-5 bits a symbol (its range coder loses 10^-4, too much
for positions that flip once in 10,000).

ANS is a stack: what was pushed last is popped first. Any bytes decode to something, so a decoder cannot hang or fail on
damaged data; it sees the damage by what is left on the stack.
"""

from __future__ import annotations

import constriction
import numpy as np
from numpy.typing import NDArray

from common.errors import BadCode, TruncatedPayload

_model, _AnsCoder = constriction.stream.model, constriction.stream.stack.AnsCoder

__all__ = ["PRECISION", "BitStack", "nearest_numerator"]

PRECISION = 24
"""A probability is a numerator from 1 to 2^24 - 1, over 2^24."""
_CHUNK = 1 << 22
"""Symbols handed to the coder in one call: it wants 4 bytes for each."""


def nearest_numerator(part: int, whole: int) -> int:
    """Numerator of the probability ``part / whole``, kept inside 1 .. 2^24 - 1; ``whole`` is above 0."""
    return min(max(((part << (PRECISION + 1)) + whole) // (2 * whole), 1), (1 << PRECISION) - 1)


class BitStack:
    """A stack of entropy-coded symbols.

    Parameters
    ----------
    data
        What `to_bytes` returned; empty is the empty stack.

    Raises
    ------
    TruncatedPayload, BadCode
        If these bytes cannot come from `to_bytes`.
    """

    def __init__(self, data: bytes = b"") -> None:
        if len(data) % 4:
            raise TruncatedPayload(f"{len(data)} bytes of entropy-coded data; they come in words of 4")
        words = np.frombuffer(data, dtype="<u4").astype(np.uint32)
        if len(words) and words[-1] == 0:
            raise BadCode("the last word of entropy-coded data is zero, which no encoder writes")
        self._coder = _AnsCoder(words)

    def push_runs(self, bits: NDArray[np.uint8], lengths: NDArray[np.int64], numerators: NDArray[np.int64]) -> None:
        """Push runs of bits, so that `pop_runs` returns them in order.

        Parameters
        ----------
        bits
            uint8 of 0 and 1: the runs one after another, ``lengths.sum()`` in all.
        lengths, numerators
            Of each run: its length, and the numerator of the probability of a 1.
        """
        end = len(bits)
        for length, numerator in zip(reversed(lengths.tolist()), reversed(numerators.tolist()), strict=True):
            model = _model.Bernoulli(numerator / (1 << PRECISION), perfect=False)
            # The chunks that pop_runs will ask for, from the last to the first.
            for at in reversed(range(end - length, end, _CHUNK)):
                self._coder.encode_reverse(bits[at : min(at + _CHUNK, end)].astype(np.int32), model)
            end -= length

    def pop_runs(self, lengths: NDArray[np.int64], numerators: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pop runs of bits; uint8 ``(lengths.sum(),)``."""
        bits = np.empty(int(lengths.sum()), dtype=np.uint8)
        start = 0
        for length, numerator in zip(lengths.tolist(), numerators.tolist(), strict=True):
            model = _model.Bernoulli(numerator / (1 << PRECISION), perfect=False)
            for at in range(start, start + length, _CHUNK):
                count = min(_CHUNK, start + length - at)
                bits[at : at + count] = self._coder.decode(model, count)
            start += length
        return bits

    def push_values(self, values: NDArray[np.int64], weights: NDArray[np.int64]) -> None:
        """Push values 0 .. len(weights) - 1, each as probable as its weight (a positive integer) says."""
        self._coder.encode_reverse(
            values.astype(np.int32), _model.Categorical(weights.astype(np.float64), perfect=False)
        )

    def pop_values(self, count: int, weights: NDArray[np.int64]) -> NDArray[np.int64]:
        """Pop ``count`` values."""
        return np.asarray(
            self._coder.decode(_model.Categorical(weights.astype(np.float64), perfect=False), count), dtype=np.int64
        )

    def to_bytes(self) -> bytes:
        """Little-endian 32-bit words; the last one is never zero."""
        return np.asarray(self._coder.get_compressed()).astype("<u4").tobytes()

    def check_empty(self) -> None:
        """Check that everything was popped.

        Raises
        ------
        BadCode
            If something is left: the data are damaged, or longer than what they describe.
        """
        if not self._coder.is_empty():
            raise BadCode("entropy-coded data go on after the last symbol")
