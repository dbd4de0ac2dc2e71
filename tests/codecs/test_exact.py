from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.codecs import SharedState, get_codec
from common.codecs.bit_stack import PRECISION, BitStack, nearest_numerator
from common.codecs.contexts import CELLS, LAYOUTS, CellMap, entropy_fixed, join_cells
from common.codecs.distance import (
    FRACTION,
    UNIT,
    distance_histogram,
    distances,
    log2_fixed,
    odds_tables,
    uniform_bounds,
)
from common.wire import HEADER_BYTES
from tests.codecs.cases import any_case, delta, kinds, plain_entropy_bits, realistic, seeds, sizes

EXACT = get_codec("exact")


@settings(max_examples=60)
@given(sizes, seeds, kinds, st.sampled_from([1.0, 0.8, 0.1]))
def test_any_delta_comes_back_without_loss(d: int, seed: int, kind: str, keep: float) -> None:
    shared, local = any_case(d, seed, kind)
    codec = get_codec("exact", keep=keep)
    payload = codec.encode(local, shared)
    again = SharedState(shared.theta.copy(), shared.seed, shared.round, shared.slot, shared.segments)
    assert payload == codec.encode(local.copy(), again)
    positions = delta(local, shared, keep)
    assert np.array_equal(np.flatnonzero(EXACT.decode(payload, again) != shared.mask()), positions)
    assert 8 * (len(payload) - HEADER_BYTES) <= plain_entropy_bits(len(positions), d) + 8 * 64
    if kind == "same":
        assert len(payload) == HEADER_BYTES


@pytest.mark.parametrize("kind", ["first", "later"])
@pytest.mark.parametrize("keep", [1.0, 0.8, 0.4])
def test_size_is_near_the_conditional_entropy_of_its_own_contexts(kind: str, keep: float) -> None:
    shared, local = realistic(kind)
    payload = get_codec("exact", keep=keep).encode(local, shared)
    positions = delta(local, shared, keep)
    body = payload[HEADER_BYTES:]
    layout, cells = LAYOUTS[body[0] - 1], CellMap(shared, int.from_bytes(body[1:3], "little"))
    total, hits = join_cells(cells.totals(), layout), join_cells(cells.count(positions), layout)
    assert hits.sum() == len(positions)
    conditional = entropy_fixed(total, hits) / 2**FRACTION / 8
    assert len(payload) <= 1.02 * conditional + 64
    # What the contexts are for.
    assert len(body) < 0.8 * plain_entropy_bits(len(positions), shared.d) / 8


def test_layers_that_learn_at_different_speeds_get_contexts_of_their_own() -> None:
    shared, _ = realistic("first", 400_000)
    shared = SharedState(shared.theta, 1, 1, 0, segments=(300_000, 100_000))
    local = np.concatenate([shared.theta[:300_000] / 65536, np.full(100_000, 0.9)]).astype(np.float32)
    local[:3000] = 0.8
    payload = EXACT.encode(local, shared)
    assert LAYOUTS[payload[HEADER_BYTES] - 1].segments
    together = SharedState(shared.theta, 1, 1, 0)
    assert len(payload) < 0.8 * len(EXACT.encode(local, together))
    assert np.array_equal(EXACT.decode(payload, shared), shared.local_mask(local))


def test_contexts_that_do_not_pay_are_not_used() -> None:
    # Local probabilities that have nothing to do with theta, and few of them: the plain code needs no table.
    shared, _ = realistic("first", 20_000)
    local = (shared.theta / 65536).astype(np.float32)
    flipped = np.array([100, 15_000])
    local[flipped] = np.where(shared.mask()[flipped], 0.0, 1.0)
    payload = EXACT.encode(local, shared)
    assert 8 * (len(payload) - HEADER_BYTES) <= plain_entropy_bits(2, shared.d) + 8 * 12
    assert np.array_equal(EXACT.decode(payload, shared), shared.local_mask(local))


# -- its parts


def test_logarithms_are_right_and_never_fall() -> None:
    x = np.concatenate(
        [np.arange(1, 100_000), 2 ** np.arange(17, 54), 2**53 - np.arange(1, 100), 2**40 + np.arange(100)]
    )
    assert np.abs(log2_fixed(x) / 2**FRACTION - np.log2(x)).max() < 2e-7
    assert (np.diff(log2_fixed(np.sort(x))) >= 0).all()
    assert all((np.diff(table) >= 0).all() for table in odds_tables())
    # Known answers: these numbers are part of the wire format.
    assert odds_tables()[0][[0, 32_767, 32_768, 65_535]].tolist() == [-17_408, -1, 0, 17_407]
    assert odds_tables()[1][[1, 32_768, 62_259, 65_535]].tolist() == [-16_384, 0, 4_349, 16_383]


@given(seeds, st.integers(0, 40 * UNIT))
def test_bounds_say_the_same_as_distances(seed: int, threshold: int) -> None:
    rng = np.random.default_rng(seed)
    uniforms, theta = rng.integers(0, 65536, 2000, dtype=np.uint16), rng.integers(1, 65536, 2000, dtype=np.uint16)
    low, end = uniform_bounds(threshold)
    far = distances(uniforms, theta)
    assert np.array_equal(far <= threshold, (low[theta] <= uniforms) & (uniforms < end[theta]))
    assert np.array_equal(distance_histogram(uniforms, theta), np.bincount(far, minlength=34 * UNIT + 1))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_collecting_and_spreading_are_inverse(layout: object) -> None:
    shared, local = any_case(60_000, 6, "step")
    assert len(shared.segments or ()) > 3
    flips = shared.local_mask(local) != shared.mask()
    cells = CellMap(shared, int(distances(shared.uniforms[flips], shared.theta[flips]).max()))
    totals, hits = cells.totals(), cells.count(np.flatnonzero(flips))
    assert totals.shape == (len(shared.segments or ()), CELLS)
    assert (hits <= totals).all()
    joined = join_cells(hits, layout)  # type: ignore[arg-type]
    bits = cells.collect(flips, layout, joined > 0)  # type: ignore[arg-type]
    ends = np.cumsum(join_cells(totals, layout)[joined > 0])  # type: ignore[arg-type]
    assert len(bits) == ends[-1]
    assert np.array_equal(np.diff(np.cumsum(bits)[ends - 1], prepend=0), joined[joined > 0])
    assert np.array_equal(cells.spread(bits, layout, joined > 0), flips)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 2**24 - 1)), max_size=20), seeds)
def test_a_stack_gives_back_what_was_pushed(runs: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = np.array([length for length, _ in runs], dtype=np.int64)
    numerators = np.array([numerator for _, numerator in runs], dtype=np.int64)
    bits = (rng.integers(0, 2**24, lengths.sum()) < np.repeat(numerators, lengths)).astype(np.uint8)
    values, weights = rng.integers(0, 5, 30), np.array([1, 7, 70, 700, 1], dtype=np.int64)
    stack = BitStack()
    stack.push_runs(bits, lengths, numerators)
    stack.push_values(values, weights)
    stack = BitStack(stack.to_bytes())
    assert np.array_equal(stack.pop_values(30, weights), values)
    assert np.array_equal(stack.pop_runs(lengths, numerators), bits)
    stack.check_empty()


def test_runs_longer_than_a_call_of_the_coder() -> None:
    lengths, numerators = np.array([5, 9_000_001, 3]), np.array([1 << 23, 1 << 8, 1 << 23])
    bits = np.zeros(lengths.sum(), np.uint8)
    bits[[2, 4_194_308, 4_194_309, 9_000_005, 9_000_007]] = 1
    stack = BitStack()
    stack.push_runs(bits, lengths, numerators)
    data = stack.to_bytes()
    assert len(data) < 100
    assert np.array_equal(BitStack(data).pop_runs(lengths, numerators), bits)


def test_numerators_stay_inside() -> None:
    assert nearest_numerator(0, 10) == 1
    assert nearest_numerator(10, 10) == 2**PRECISION - 1
    assert nearest_numerator(1, 2) == 2 ** (PRECISION - 1)
