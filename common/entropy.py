"""Entropy code of small symbols, each with a context that the receiver knows already.

Two passes: the frequencies of the symbols in each context are counted, rounded to 1/4096 and sent, then the symbols
follow through a range coder (constriction). Probabilities are fractions k / 4096, exact in floating point, so that
encoder and decoder build the same model on any machine. A context with one symbol costs nothing but its table entry.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import constriction
import numpy as np
from numpy.typing import NDArray

from common.errors import BadGeometry, TruncatedPayload

__all__ = ["decode_symbols", "encode_symbols"]

_TOTAL = 1 << 12
_MAX_TABLE = 1 << 20
"""Entries of the largest table accepted, contexts times symbols: bounds memory before anything is inflated."""


def encode_symbols(symbols: NDArray[np.uint16], contexts: NDArray[np.uint16], alphabet: int, classes: int) -> bytes:
    """Encode symbols.

    Parameters
    ----------
    symbols
        uint16 ``(d,)``, below ``alphabet`` (at most 4096).
    contexts
        uint16 ``(d,)``, below ``classes``; known to the decoder.
    alphabet, classes
        Their product is at most 2^20.

    Returns
    -------
    Length of the deflated table (uint32), table, code words (uint32 each).
    """
    counts = np.bincount(contexts.astype(np.int64) * alphabet + symbols, minlength=classes * alphabet)
    table = _quantise(counts.reshape(classes, alphabet))
    packed = zlib.compress(table.astype("<u2").tobytes(), 9)
    coder = constriction.stream.queue.RangeEncoder()
    for context, positions in _groups(contexts, table):
        present, model = _model(table[context])
        rank = np.zeros(alphabet, dtype=np.int32)
        rank[present] = np.arange(len(present))
        coder.encode(rank[symbols[positions]], model)
    words = coder.get_compressed().astype("<u4").tobytes()
    return bytes(len(packed).to_bytes(4, "little") + packed + words)


def decode_symbols(data: bytes, contexts: NDArray[np.uint16], alphabet: int, classes: int) -> NDArray[np.uint16]:
    """Decode what `encode_symbols` wrote; uint16 ``(d,)``.

    Raises
    ------
    TruncatedPayload, BadGeometry
        If the data are cut off, or the table is not one of these contexts.
    """
    if classes * alphabet > _MAX_TABLE or not 1 <= alphabet <= 4096:
        raise BadGeometry(f"a table of {classes} contexts and {alphabet} symbols")
    size = int.from_bytes(data[:4], "little")
    if len(data) < 4 + size or (len(data) - 4 - size) % 4:
        raise TruncatedPayload("the table or the code words are cut off")
    table = _read_table(data[4 : 4 + size], classes, alphabet)
    symbols = np.zeros(len(contexts), dtype=np.uint16)
    decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(data[4 + size :], "<u4").astype(np.uint32))
    used = np.bincount(contexts, minlength=classes) > 0
    if (used & (table.sum(axis=1) == 0)).any():
        raise BadGeometry("the table lacks a context that occurs")
    try:
        for context, positions in _groups(contexts, table):
            present, model = _model(table[context])
            symbols[positions] = present[decoder.decode(model, len(positions))]
    except AssertionError as error:  # constriction's answer to words that no encoder wrote
        raise BadGeometry("the code words are not those of this table") from error
    # Contexts with a single symbol are not in the code words.
    single = np.flatnonzero(np.count_nonzero(table, axis=1) == 1)
    lookup = np.zeros(classes, dtype=np.uint16)
    lookup[single] = table[single].argmax(axis=1)
    is_single = np.zeros(classes, dtype=np.bool_)
    is_single[single] = True
    where = is_single[contexts]
    symbols[where] = lookup[contexts[where]]
    return symbols


def _quantise(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Frequencies in 1/4096 that add up to 1 in every context that occurs; what occurs gets at least 1."""
    totals = counts.sum(axis=1, keepdims=True)
    table = np.where(counts > 0, np.maximum(1, counts * _TOTAL // np.maximum(totals, 1)), 0)
    rows = np.flatnonzero(totals[:, 0])
    # What rounding has left over goes to the commonest symbol, whose frequency is large enough to take it: there are at
    # most 4096 symbols, and so at most as many units of rounding.
    table[rows, counts[rows].argmax(axis=1)] += _TOTAL - table[rows].sum(axis=1)
    return table


def _read_table(packed: bytes, classes: int, alphabet: int) -> NDArray[np.int64]:
    size = 2 * classes * alphabet
    try:
        inflater = zlib.decompressobj()
        raw = inflater.decompress(packed, size + 1)
    except zlib.error as error:
        raise BadGeometry(f"the table cannot be inflated: {error}") from error
    if len(raw) != size or not inflater.eof or inflater.unused_data:
        raise BadGeometry(f"the table does not have {classes} contexts of {alphabet} symbols")
    table = np.frombuffer(raw, "<u2").astype(np.int64).reshape(classes, alphabet)
    if not np.isin(table.sum(axis=1), (0, _TOTAL)).all():
        raise BadGeometry(f"the frequencies of a context do not add up to {_TOTAL}")
    return table


def _groups(contexts: NDArray[np.uint16], table: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Contexts with at least two symbols, in order, and the positions of each, ascending."""
    order = np.argsort(contexts, kind="stable")
    ends = np.cumsum(np.bincount(contexts, minlength=len(table)))
    for context in np.flatnonzero(np.count_nonzero(table, axis=1) > 1).tolist():
        begin = ends[context - 1] if context else 0
        if begin < ends[context]:
            yield context, order[begin : ends[context]]


def _model(frequencies: NDArray[np.int64]) -> tuple[NDArray[np.uint16], constriction.stream.model.Categorical]:
    """The symbols that occur, and constriction's model of their ranks."""
    present = np.flatnonzero(frequencies)
    model = constriction.stream.model.Categorical(frequencies[present] / _TOTAL, perfect=False)
    return present.astype(np.uint16), model
