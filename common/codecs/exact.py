"""``exact``: the selected delta, lossless, entropy-coded given everything both sides know.

A filter spends about 9 bits on each flip, wherever it is. Yet given theta and u a flip is far more likely in some
places than in others, and out of the question in most (contexts.py). Every context's flips are coded with their own
probability; contexts without any flip cost nothing, and positions beyond the furthest flip are not even looked at.
Probabilities are counted first and sent (rounded to a quarter octave of odds, coded as differences): sent tables and
adaptive counts cost the same within 0.2 % in real rounds, and with tables every context is one run that a vectorised
coder takes at once.

Body: layout (1 byte). 0 is plain: every position with the probability n / d; used when contexts do not pay. Otherwise 1
+ a number of `LAYOUTS`, reach (2, the furthest flip's distance). Then the entropy-coded words: the table of
probabilities, the runs of bits. An empty delta has an empty body.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.codecs.base import Body, Bound, DeltaCodec, entropy_bits
from common.codecs.bit_stack import PRECISION, BitStack, nearest_numerator
from common.codecs.contexts import LAYOUTS, CellMap, Layout, entropy_fixed, join_cells
from common.codecs.distance import FRACTION, UNIT, distances, log2_fixed
from common.codecs.state import SharedState
from common.errors import BadGeometry, ImplausibleDelta, TruncatedPayload

__all__ = ["Exact"]

_PLAIN = 0
_FRONT = struct.Struct("<BH")
_NEVER = 0
"""Code of a context without flips. The others are 1 .. 185: quarter octaves of the odds against a flip, from 2^-23 to
2^23.
"""
_MOST = 92
_CODES = 2 * _MOST + 2
_START = 1 + _MOST


class Exact(DeltaCodec):
    """Lossless entropy code of the selected delta."""

    name = "exact"
    number = 4

    def encode_positions(self, positions: NDArray[np.int64], shared: SharedState) -> bytes:
        """Encode ascending positions."""
        if len(positions) == 0:
            return b""
        flips = np.zeros(shared.d, dtype=np.bool_)
        flips[positions] = True
        reach, cells, totals, flipped, layout = _contexts(positions, shared)
        stack = BitStack()
        if layout is None:
            stack.push_runs(flips.view(np.uint8), *_plain_run(len(positions), shared.d))
            return bytes([_PLAIN]) + stack.to_bytes()
        total, hits = join_cells(totals, layout), join_cells(flipped, layout)
        codes = _codes(total, hits)
        used = codes != _NEVER
        stack.push_runs(cells.collect(flips, layout, used), total[used], _NUMERATORS[codes[used]])
        stack.push_values(_differences(codes, total > 0), _WEIGHTS)
        return _FRONT.pack(1 + LAYOUTS.index(layout), reach) + stack.to_bytes()

    def bound(self, theta_local: NDArray[np.float32], shared: SharedState) -> Bound | None:
        """The empirical entropy of the flips given the contexts that the payload names, their table not included; the
        plain entropy where it names none.
        """
        positions = self.selected_delta(theta_local, shared)
        if len(positions) == 0:
            return Bound("entropy", 0.0)
        _, _, totals, flipped, layout = _contexts(positions, shared)
        if layout is None:
            return Bound("entropy", entropy_bits(len(positions), shared.d))
        bits = entropy_fixed(join_cells(totals, layout), join_cells(flipped, layout)) / (1 << FRACTION)
        return Bound("given contexts", bits)

    def describe(self, n: int, body: bytes) -> Body:
        """Explain a body: the contexts, and the number of entropy-coded words."""
        front, layout = _read_front(n, body)
        if n == 0:
            return Body({}, {})
        BitStack(body[front:])  # refuses what no encoder writes
        words = {"entropy-coded words": len(body) - front}
        if layout is None:
            return Body({"contexts": "none: every position has the probability n / d"}, {"layout": front, **words})
        by = ["theta in 8 classes"] * layout.theta + ["layer"] * layout.segments
        steps = f"distance from theta in {layout.bins} step{'s' if layout.bins > 1 else ''}"
        reach = _FRONT.unpack_from(body)[1]
        fields: dict[str, str | int] = {
            "contexts": ", ".join([steps, *by]),
            "reach": f"{reach:,}: the furthest flip is where odds are 2^{reach / UNIT:.2f} apart",
        }
        return Body(fields, {"layout and reach": front, **words})

    def decode_flips(self, n: int, body: bytes, shared: SharedState) -> NDArray[np.bool_]:
        """Return the flips, bool ``(d,)``; raise PayloadError on anything odd."""
        front, layout = _read_front(n, body)
        if n == 0:
            return np.zeros(shared.d, dtype=np.bool_)
        stack = BitStack(body[front:])
        if layout is None:
            flips = stack.pop_runs(*_plain_run(n, shared.d)).view(np.bool_)
        else:
            flips = self._decode_contexts(stack, layout, _FRONT.unpack_from(body)[1], shared)
        stack.check_empty()
        found = int(np.count_nonzero(flips))
        if found != n:
            raise ImplausibleDelta(f"the header says {n} flips and the code holds {found}")
        return flips

    @staticmethod
    def _decode_contexts(stack: BitStack, layout: Layout, reach: int, shared: SharedState) -> NDArray[np.bool_]:
        cells = CellMap(shared, reach)
        total = join_cells(cells.totals(), layout)
        present = total > 0
        codes = _from_differences(stack.pop_values(int(np.count_nonzero(present)), _WEIGHTS), present)
        used = codes != _NEVER
        return cells.spread(stack.pop_runs(total[used], _NUMERATORS[codes[used]]), layout, used)


def _read_front(n: int, body: bytes) -> tuple[int, Layout | None]:
    """Bytes before the entropy-coded words, and the layout, None for the plain code; checked."""
    if n == 0:
        if body:
            raise BadGeometry("entropy-coded data for an empty delta")
        return 0, None
    if not body or (body[0] != _PLAIN and len(body) < _FRONT.size):
        raise TruncatedPayload(f"{len(body)} bytes for {n} flips")
    if body[0] == _PLAIN:
        return 1, None
    if body[0] > len(LAYOUTS):
        raise BadGeometry(f"layout {body[0]}; there are {len(LAYOUTS)}")
    return _FRONT.size, LAYOUTS[body[0] - 1]


class _Contexts(NamedTuple):
    """The contexts that the encoder chooses for these flips."""

    reach: int
    cells: CellMap
    totals: NDArray[np.int64]
    flipped: NDArray[np.int64]
    layout: Layout | None


def _contexts(positions: NDArray[np.int64], shared: SharedState) -> _Contexts:
    reach = int(distances(shared.uniforms[positions], shared.theta[positions]).max())
    cells = CellMap(shared, reach)
    totals, flipped = cells.totals(), cells.count(positions)
    return _Contexts(reach, cells, totals, flipped, _choose_layout(totals, flipped, shared.d))


def _plain_run(n: int, d: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Length and probability of the one run of the plain code: n is in the header, so there is no table."""
    return np.array([d]), np.array([nearest_numerator(n, d)])


def _choose_layout(totals: NDArray[np.int64], flipped: NDArray[np.int64], d: int) -> Layout | None:
    """The cheapest layout, table included; None when the plain code is at least as cheap. Ties go to the first.

    A layout whose table would be more than 32 bytes and 1/64 of what it describes is not considered, even if it is
    cheaper by a little: so the size stays close to the entropy that the payload itself names.
    """
    best: Layout | None = None
    # The plain code is 16 bits shorter than its entropy and a table would be: it does not send the reach.
    least = entropy_fixed(np.array([d]), flipped.sum(keepdims=True)) - (16 << FRACTION)
    for layout in LAYOUTS:
        total, hits = join_cells(totals, layout), join_cells(flipped, layout)
        codes = _codes(total, hits)
        runs = int((hits * _FLIP_COSTS[codes] + (total - hits) * _STAY_COSTS[codes]).sum())
        table = int(_WEIGHT_COSTS[_differences(codes, total > 0)].sum())
        if runs + table < least and table <= (256 << FRACTION) + runs // 64:
            best, least = layout, runs + table
    return best


def _codes(total: NDArray[np.int64], hits: NDArray[np.int64]) -> NDArray[np.int64]:
    """The code of each context's probability, of the shape of ``total``."""
    against = log2_fixed(np.maximum(total - hits, 1)) - log2_fixed(np.maximum(hits, 1))
    quarters = np.where(
        hits == total, -_MOST, np.clip((4 * against + (1 << (FRACTION - 1))) >> FRACTION, -_MOST, _MOST)
    )
    return np.where(hits == 0, _NEVER, quarters + _START)


def _differences(codes: NDArray[np.int64], present: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Codes of the contexts that have positions, as differences modulo `_CODES`. A context is compared with the one
    before it in its row (the next smaller step of distance), the first of a row with the first of the row above.
    """
    row = np.nonzero(present)[0]
    listed = codes[present]
    first = np.diff(row, prepend=-1) != 0
    before = np.empty_like(listed)
    before[1:] = listed[:-1]
    before[first] = np.concatenate(([_START], listed[first][:-1]))
    return (listed - before) % _CODES


def _from_differences(differences: NDArray[np.int64], present: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The inverse of `_differences`; contexts without positions get ``_NEVER``."""
    codes = np.full(present.shape, _NEVER, dtype=np.int64)
    row = np.nonzero(present)[0]
    first = np.diff(row, prepend=-1) != 0
    # The first code of a row is a running sum over the first codes of all rows so far; the others are running sums from
    # the first code of their own row.
    heads = _START + np.cumsum(differences[first])
    along = np.cumsum(np.where(first, 0, differences))
    place = np.cumsum(first) - 1
    codes[present] = (heads[place] + along - along[first][place]) % _CODES
    return codes


def _numerators() -> NDArray[np.int64]:
    """Numerator of the probability of a flip for each code, ``2^24 / (1 + 2^(x / 4))``, from integers."""
    quarter = (65_536, 77_936, 92_682, 110_218)  # 2^16 * 2^(k / 4)
    upper = [(1 << (PRECISION + 16)) // (65_536 + (quarter[x % 4] << x // 4)) for x in range(_MOST + 1)]
    lower = [(1 << PRECISION) - value for value in reversed(upper[1:])]
    return np.array([0, *lower, *upper], dtype=np.int64)  # the first stands for _NEVER and is not used


def _weights() -> NDArray[np.int64]:
    """Weights of the differences modulo `_CODES`: odds grow by about half an octave a step, and now and then by any
    amount.
    """
    step = (np.arange(_CODES) + _CODES // 2 - 2) % _CODES - _CODES // 2
    return 65_536 // (4 + step**2)


_NUMERATORS = _numerators()
_WEIGHTS = _weights()
# Costs in bits times 2^FRACTION; contexts without flips cost nothing.
_FLIP_COSTS = (PRECISION << FRACTION) - log2_fixed(np.maximum(_NUMERATORS, 1))
_STAY_COSTS = (PRECISION << FRACTION) - log2_fixed((1 << PRECISION) - _NUMERATORS)
_WEIGHT_COSTS = log2_fixed(np.array([_WEIGHTS.sum()])) - log2_fixed(_WEIGHTS)
