from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.aggregation.beta import BetaPosterior, empty_posterior, fold, is_reset_round, mode, posterior_of
from common.theta import probabilities, quantise, scores, theta_digest


def test_quantise_stays_inside_the_grid() -> None:
    assert quantise([0.0, 1e-9, 0.5, 1 - 1e-9, 1.0]).tolist() == [1, 1, 32768, 65535, 65535]
    with pytest.raises(ValueError, match="NaN"):
        quantise([0.5, float("nan")])


def test_every_grid_value_survives_the_way_to_scores_and_back() -> None:
    # A position that training leaves alone must not flip: its float32 score has to lead back to its grid value.
    theta = np.arange(1, 65536, dtype=np.uint16)
    back = 1 / (1 + np.exp(-scores(theta).astype(np.float32)))
    assert np.array_equal(quantise(back), theta)
    assert np.array_equal(quantise(probabilities(theta)), theta)


def test_digest_names_a_theta() -> None:
    theta = np.array([1, 2, 3], np.uint16)
    assert theta_digest(theta).hex() == "bdd1d5fc298f6985"
    assert theta_digest(theta) != theta_digest(theta[::-1].copy())


@given(
    st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=12), st.floats(1, 5), st.randoms()
)
def test_beta_update_equals_a_scalar_reference_in_any_order(
    masks: list[list[bool]], prior: float, random: object
) -> None:
    clip = 0.01
    expected = []
    for position in range(3):
        alpha = beta = Fraction(prior)
        for mask in masks:
            alpha += mask[position]
            beta += 1 - mask[position]
        theta = min(max((alpha - 1) / (alpha + beta - 2), Fraction(clip)), 1 - Fraction(clip))
        expected.append(theta)
    results = []
    for _ in range(2):
        posterior = empty_posterior(3, prior)
        for mask in masks:
            posterior = fold(posterior, np.array(mask))
        results.append(mode(posterior, clip))
        random.shuffle(masks)  # type: ignore[attr-defined]
    assert np.array_equal(results[0], results[1])
    # Half a step of the grid, and the rounding of float64.
    assert all(
        abs(int(got) - 65536 * want) <= Fraction(1, 2) + Fraction(1, 10**6)
        for got, want in zip(results[0], expected, strict=True)
    )


def test_mode_is_the_mean_of_masks_under_the_flat_prior() -> None:
    posterior = empty_posterior(4)
    for mask in ([1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]):
        posterior = fold(posterior, np.array(mask, bool))
    assert mode(posterior, 0.01).tolist() == quantise([0.99, 0.75, 0.25, 0.01]).tolist()


@given(st.integers(1, 300), st.floats(1, 5), st.sampled_from([0.001, 0.01, 0.2]), st.integers(0, 2**32))
def test_a_posterior_is_rebuilt_from_its_mode_or_not_at_all(masks: int, prior: float, clip: float, seed: int) -> None:
    ones = np.random.default_rng(seed).integers(0, masks + 1, 50).astype(np.uint16)
    posterior = BetaPosterior(ones, masks, prior)
    found = posterior_of(mode(posterior, clip), masks, prior, clip)
    if found is None:
        assert len(set(mode(BetaPosterior(np.arange(masks + 1).astype(np.uint16), masks, prior), clip))) <= masks
    else:
        assert np.array_equal(found.ones, ones)
        assert (found.masks, found.prior) == (masks, prior)
    assert posterior_of(quantise([0.123456]), 10, 1.0, 0.01) is None, "no mean of ten masks"


def test_posterior_refuses_what_has_no_mode() -> None:
    with pytest.raises(ValueError, match="no mode"):
        mode(empty_posterior(2))
    with pytest.raises(ValueError, match="at least 1"):
        empty_posterior(2, prior=0.5)
    assert mode(empty_posterior(2, prior=2.0)).tolist() == [32768, 32768]


def test_fold_leaves_its_argument_alone() -> None:
    posterior = empty_posterior(2)
    fold(posterior, np.array([True, True]))
    assert posterior.ones.tolist() == [0, 0]
    assert posterior.masks == 0


@pytest.mark.parametrize(
    ("participation", "resets"),
    [(1.0, [1, 2, 3, 4]), (0.5, [1, 3]), (0.34, [1, 4]), (0.2, [1]), (1 / 3, [1, 4])],
)
def test_prior_resets_every_ceil_of_one_over_participation(participation: float, resets: list[int]) -> None:
    assert [r for r in range(1, 5) if is_reset_round(r, participation)] == resets
