"""How likely a flip is, given what both sides know: positions sorted into cells by distance, theta and layer, and cells
joined into contexts.

Local training moves scores, so whether a bit flips depends on the log-odds distance between u and theta (distance.py)
first of all. After selection by KL it also depends on theta: the same step at theta = 0.99 is worth less. Layers may
learn at different speeds. How much of this pays depends on the size of the delta, so cells are fine and the encoder
joins them into the cheapest of 24 layouts (our choice). In real rounds of 1 million positions, distance alone halves
the cost of the delta, theta saves another 5 %, and layers save less than their tables cost.

Everything here is integer arithmetic: the costs that choose a layout too, since equal input must give equal bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from common.codecs.distance import UNIT, distances, log2_fixed, odds_tables, uniform_bounds
from common.codecs.parallel import for_each
from common.codecs.state import SharedState

__all__ = ["CELLS", "LAYOUTS", "CellMap", "Layout", "entropy_fixed", "join_cells"]

_BINS = 32
_CLASSES = 8
CELLS = _BINS * _CLASSES
"""Cells of one layer: 32 steps of distance for each of 8 classes of theta (its odds to the next power of two, either
way round).
"""
_MOST_SEGMENTS = 256
_TASK = 1 << 20


@dataclass(frozen=True)
class Layout:
    """Which cells share a context."""

    log2_bins: int
    """2^log2_bins steps of distance, 0..5."""
    theta: bool
    """Whether classes of theta have contexts of their own."""
    segments: bool
    """Whether layers have."""

    @property
    def bins(self) -> int:
        """Steps of distance."""
        return 1 << self.log2_bins

    @property
    def local(self) -> int:
        """Contexts of a layer (of all layers together without ``segments``)."""
        return self.bins * (_CLASSES if self.theta else 1)

    def local_of(self) -> NDArray[np.int64]:
        """Context of each cell within its layer, int64 ``(CELLS,)``."""
        cell = np.arange(CELLS)
        return (cell // _BINS * self.bins if self.theta else 0) + (cell % _BINS * self.bins // _BINS)


LAYOUTS = tuple(
    Layout(bins, theta, segments) for segments in (False, True) for theta in (False, True) for bins in range(6)
)
"""Every layout; its place here is its number in a payload."""


def join_cells(cells: NDArray[np.int64], layout: Layout) -> NDArray[np.int64]:
    """Add up counts of cells ``(segments, CELLS)`` by context: int64 ``(segments or 1, layout.local)``."""
    joined: NDArray[np.int64] = cells.reshape(len(cells), _CLASSES, layout.bins, -1).sum(axis=3)
    if not layout.theta:
        joined = joined.sum(axis=1, keepdims=True)
    if not layout.segments:
        joined = joined.sum(axis=0, keepdims=True)
    return joined.reshape(-1, layout.local)


def entropy_fixed(total: NDArray[np.int64], flips: NDArray[np.int64]) -> int:
    """Empirical conditional entropy of flips given their contexts, the sum of ``total * H(flips / total)``, in bits
    times 2^`FRACTION`.
    """
    total, flips = total.ravel(), flips.ravel()
    stays = total - flips
    # A count of zero is multiplied by a zero; its logarithm only has to exist.
    log_total, log_flips, log_stays = (log2_fixed(np.maximum(count, 1)) for count in (total, flips, stays))
    return int((flips * (log_total - log_flips) + stays * (log_total - log_stays)).sum())


class CellMap:
    """The positions within reach of a flip, by cell.

    Parameters
    ----------
    shared
        What both sides know; its segments are the layers, when there are not too many to be worth it.
    reach
        Largest log-odds distance of any flip, 0..65535: positions further away are certain to stay, and are in no cell.
    """

    def __init__(self, shared: SharedState, reach: int) -> None:
        self._shared, self._reach = shared, reach
        sizes = shared.segments or ()
        if len(sizes) > _MOST_SEGMENTS:
            sizes = (shared.d,)
        self._ends = np.cumsum(sizes)
        self._tasks = [
            (start, min(start + _TASK, end), segment)
            for segment, (size, end) in enumerate(zip(sizes, self._ends.tolist(), strict=True))
            for start in range(end - size, end, _TASK)
        ]
        # Steps of distance grow linearly (their bounds as squares): the probability falls fastest near theta, and a few
        # far flips must not widen all the steps.
        bounds = (np.arange(_BINS, dtype=np.int64) ** 2 * (reach + 1) + _BINS**2 - 1) // _BINS**2
        steps = np.searchsorted(bounds, np.arange(reach + 1), side="right") - 1
        classes = np.minimum(np.abs(odds_tables()[1]) // UNIT, _CLASSES - 1)
        self._tables = (
            *uniform_bounds(reach),
            *odds_tables(),
            steps.astype(np.int32),
            (classes * _BINS).astype(np.int32),
        )
        self._counts = np.zeros((len(self._tasks), CELLS), dtype=np.int64)
        for_each(self._count, len(self._tasks))

    def totals(self) -> NDArray[np.int64]:
        """Positions in each cell, int64 ``(segments, CELLS)``."""
        totals = np.zeros((len(self._ends), CELLS), dtype=np.int64)
        np.add.at(totals, [segment for _, _, segment in self._tasks], self._counts)
        return totals

    def count(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many of these positions are in each cell, int64 ``(segments, CELLS)``; all of them within reach."""
        uniforms, theta = self._shared.uniforms[positions], self._shared.theta[positions]
        cell = self._tables[5][theta] + self._tables[4][distances(uniforms, theta)]
        segment = np.searchsorted(self._ends, positions, side="right")
        return np.bincount(segment * CELLS + cell, minlength=len(self._ends) * CELLS).reshape(-1, CELLS)

    def collect(self, flips: NDArray[np.bool_], layout: Layout, used: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Flips as bits sorted by context, in order of position within each.

        Parameters
        ----------
        flips
            bool ``(d,)``.
        layout, used
            The contexts, and which of them are to be collected: bool ``(segments or 1, layout.local)``.
        """
        return self._move(flips, None, layout, used)

    def spread(self, bits: NDArray[np.uint8], layout: Layout, used: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The inverse of `collect`: bool ``(d,)``, False outside the contexts used."""
        flips = np.zeros(self._shared.d, dtype=np.bool_)
        self._move(flips, bits, layout, used)
        return flips

    def _count(self, index: int) -> None:
        start, end, _ = self._tasks[index]
        _count_cells(
            self._shared.uniforms[start:end], self._shared.theta[start:end], *self._tables, self._counts[index]
        )

    def _move(
        self, flips: NDArray[np.bool_], bits: NDArray[np.uint8] | None, layout: Layout, used: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        local_of = layout.local_of()
        row = np.array([segment if layout.segments else 0 for _, _, segment in self._tasks])
        lengths = np.zeros((len(self._tasks), layout.local), dtype=np.int64)
        np.add.at(lengths.T, local_of, self._counts.T)
        lengths[~used[row]] = 0
        # Where each task begins in each context: after all contexts before it, and after the earlier tasks of the same
        # context.
        per_context = np.zeros(used.shape, dtype=np.int64)
        np.add.at(per_context, row, lengths)
        starts = (np.cumsum(per_context.ravel()) - per_context.ravel()).reshape(used.shape)
        before = np.cumsum(lengths, axis=0) - lengths
        if layout.segments:  # tasks of earlier layers are counted in ``before``, but have contexts of their own
            first = np.searchsorted(row, row, side="left")
            before -= before[first]
        at = np.where(used[row], starts[row] + before, -1)
        writing = bits is None
        moved = np.empty(int(lengths.sum()), dtype=np.uint8) if bits is None else bits
        local = local_of.astype(np.int32)

        def run(index: int) -> None:
            start, end, _ = self._tasks[index]
            uniforms, theta = self._shared.uniforms[start:end], self._shared.theta[start:end]
            (_collect if writing else _spread)(
                uniforms, theta, *self._tables, local, at[index], moved, flips[start:end]
            )

        for_each(run, len(self._tasks))
        return moved


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _count_cells(  # pragma: no cover - compiled
    uniforms: Any,
    theta: Any,
    low: Any,
    end_of: Any,
    of_uniform: Any,
    of_theta: Any,
    step_of: Any,
    class_of: Any,
    counts: Any,
) -> None:
    for i in range(theta.size):
        u, t = uniforms[i], theta[i]
        if low[t] <= u < end_of[t]:
            counts[class_of[t] + step_of[abs(of_uniform[u] - of_theta[t])]] += 1


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _collect(  # pragma: no cover - compiled
    uniforms: Any,
    theta: Any,
    low: Any,
    end_of: Any,
    of_uniform: Any,
    of_theta: Any,
    step_of: Any,
    class_of: Any,
    local_of: Any,
    at: Any,
    bits: Any,
    flips: Any,
) -> None:
    for i in range(theta.size):
        u, t = uniforms[i], theta[i]
        if low[t] <= u < end_of[t]:
            context = local_of[class_of[t] + step_of[abs(of_uniform[u] - of_theta[t])]]
            if at[context] >= 0:
                bits[at[context]] = flips[i]
                at[context] += 1


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _spread(  # pragma: no cover - compiled
    uniforms: Any,
    theta: Any,
    low: Any,
    end_of: Any,
    of_uniform: Any,
    of_theta: Any,
    step_of: Any,
    class_of: Any,
    local_of: Any,
    at: Any,
    bits: Any,
    flips: Any,
) -> None:
    for i in range(theta.size):
        u, t = uniforms[i], theta[i]
        if low[t] <= u < end_of[t]:
            context = local_of[class_of[t] + step_of[abs(of_uniform[u] - of_theta[t])]]
            if at[context] >= 0:
                flips[i] = bits[at[context]] != 0
                at[context] += 1
