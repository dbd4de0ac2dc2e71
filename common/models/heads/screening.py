"""Which clients' head statistics count, and for how much: what one client may do to the head of all.

Features come from the same frozen weights everywhere, so that honest clients' statistics resemble each other in three
ways that do not depend on which classes they hold or how many images:

* **how large features are**: their mean square is within a factor of `_RANGE` of the median client's, and their scatter
  around class means no more than so often its;
* **where classes lie**: the means of a client's classes, seen from their common mean, point to where others have the
  same classes. With v_c the others' mean of class c seen from the mean of the client's classes by its counts n_c, and
  mu_c the client's, ``T = sum_c n_c <mu_c, v_c>`` is about ``E = sum_c n_c |v_c|^2`` for an honest client, 0 where
  labels were drawn by lot, negative where they are reversed; its standard deviation is
  ``sqrt(sum_c n_c v_c' S v_c)``, S the covariance of features around class means. Who is below `_LEAST` of E by more
  than `_SURE` standard deviations is left out, the worst first, at most a third.

Our choice, all of it; a client with one class cannot be judged by the second rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

import numpy as np
from numpy.typing import NDArray

from common.models.heads.base import Head
from common.models.heads.moments import Moments
from common.verdict import worst_first

__all__ = ["screen_heads", "screen_moments"]

_RANGE, _LEAST, _SURE = 4.0, 0.3, 3.0
_LARGEST, _ALIKE = 4.0, 0.25
_SAME = 10
"""Examples of a class from which on a client's mean of it counts as much as any other's."""
_DIRECTIONS = 16
"""Where only the trace of the scatter is known: directions that share it evenly."""


def screen_moments(moments: Mapping[int, Moments]) -> dict[int, str]:
    """Clients whose moments are not to count, with the reason.

    Parameters
    ----------
    moments
        By client, of at least one example each; means and scatter as clients measured them.
    """
    if len(moments) < 3:
        return {}
    found = _out_of_range(moments)

    def judge(clients: list[int]) -> dict[int, float]:
        return _agreements({client: moments[client] for client in clients})

    left_out = worst_first(moments.keys(), found, judge, lambda worst, agreements: agreements[worst] < 0)
    return found | dict.fromkeys(left_out, "its classes do not lie where the others have them")


def screen_heads(heads: Mapping[int, Head]) -> dict[int, str]:
    """Clients whose heads are not to count in a mean of heads, with the reason.

    A head is looked at without what all classes share, which no softmax notices. It is left out where it is more than
    `_LARGEST` times as long as the median client's; and where its cosine with the others' sum is below a quarter of
    the median client's, the worst first, at most a third. Where clients have different classes their heads have little
    in common or less: below a median of a quarter only those with a cosine below -1/2 are left out.

    Parameters
    ----------
    heads
        By client.
    """
    if len(heads) < 3:
        return {}
    rows = {client: _centred(head) for client, head in heads.items()}
    lengths = {client: float(np.linalg.norm(row)) for client, row in rows.items()}
    usual = median(lengths.values())
    found = {
        client: f"weights {length / usual if usual else math.inf:.3g} times as large as the median client's"
        for client, length in lengths.items()
        if length > _LARGEST * usual
    }
    units = {client: row / lengths[client] for client, row in rows.items() if lengths[client]}

    def judge(clients: list[int]) -> dict[int, float]:
        rest = {client: units[client] for client in clients if client in units}
        total = sum(rest.values())
        return {client: _cosine(unit, total - unit) for client, unit in rest.items()} if len(rest) > 2 else {}

    left_out = worst_first(heads.keys(), found, judge, _points_away)
    return found | dict.fromkeys(left_out, "its head points away from the others'")


def _points_away(worst: int, cosines: Mapping[int, float]) -> bool:
    middle = median(cosines.values())
    return cosines[worst] < (middle * _ALIKE if middle >= _ALIKE else -0.5)


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(a @ b) / (float(np.linalg.norm(a) * np.linalg.norm(b)) or 1.0)


def _centred(head: Head) -> NDArray[np.float64]:
    rows = np.concatenate([head.weight, head.bias[:, None]], axis=1).astype(np.float64)
    return np.asarray((rows - rows.mean(0)).ravel())


def _out_of_range(moments: Mapping[int, Moments]) -> dict[int, str]:
    """Clients with features, or a scatter, of another size than the median client's."""
    sizes = {client: _mean_square(one) for client, one in moments.items()}
    spreads = {client: _variance(one) for client, one in moments.items()}
    size, spread = median(sizes.values()), median([one for one in spreads.values() if one] or [0.0])
    found = {}
    for client in moments:
        if not size / _RANGE <= sizes[client] <= size * _RANGE:
            times = math.sqrt(sizes[client] / size) if size else math.inf
            found[client] = f"features {times:.3g} times as large as the median client's"
        elif spreads[client] > _RANGE * spread:
            times = spreads[client] / spread if spread else math.inf
            found[client] = f"a scatter {times:.3g} times the median client's"
    return found


def _trace(moments: Moments) -> float:
    return float(np.trace(moments.within)) if moments.within.ndim == 2 else float(moments.within)


def _mean_square(moments: Moments) -> float:
    squares = (moments.means**2).sum(1) @ moments.counts
    return float((squares + _trace(moments)) / moments.counts.sum())


def _variance(moments: Moments) -> float:
    """Around class means, over all features; 0 where no class has two examples."""
    free = moments.counts.sum() - np.count_nonzero(moments.counts)
    return _trace(moments) / float(free) if free else 0.0


def _agreements(moments: Mapping[int, Moments]) -> dict[int, float]:
    """How far each client's T is above the least that an honest one has, in units of E; negative: it is left out."""
    weights = {client: np.minimum(one.counts, _SAME).astype(np.float64) for client, one in moments.items()}
    sums = {client: one.means * weights[client][:, None] for client, one in moments.items()}
    all_weights, all_sums = np.sum(list(weights.values()), axis=0), np.sum(list(sums.values()), axis=0)
    free = sum(int(one.counts.sum()) - np.count_nonzero(one.counts) for one in moments.values())
    within = np.sum([one.within for one in moments.values()], axis=0) / max(1, free)
    found = {}
    for client, one in moments.items():
        other_weights = all_weights - weights[client]
        both = (one.counts > 0) & (other_weights > 0.5)
        counts = one.counts[both].astype(np.float64)
        if len(counts) < 2:
            continue
        others = (all_sums - sums[client])[both] / other_weights[both][:, None]
        away = others - counts @ others / counts.sum()
        own = one.means[both]
        said = float(counts @ ((own - counts @ own / counts.sum()) * away).sum(1))
        expected = float(counts @ (away**2).sum(1))
        if expected:
            noise = math.sqrt(float(counts @ _variances(away, within)))
            found[client] = (said + _SURE * noise) / expected - _LEAST
    return found


def _variances(directions: NDArray[np.float64], within: NDArray[np.float64]) -> NDArray[np.float64]:
    """``v' S v`` of each row."""
    if within.ndim == 2:
        return np.asarray(((directions @ within) * directions).sum(1))
    return np.asarray((directions**2).sum(1) * float(within) / _DIRECTIONS)
