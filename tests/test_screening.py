"""What one client can do to a round, and what the rules cost honest ones."""

from __future__ import annotations

import numpy as np
import pytest

from common.aggregation.flips import power_of_two
from common.aggregation.screening import Limits, Said, screen, sparse
from common.verdict import Verdict

D, CLIENTS = 20_000, 10
FULL = Verdict(1.0)


def truth(rng: np.random.Generator) -> np.ndarray:
    """What honest clients have learnt on average: few large changes, many small ones."""
    return np.clip(0.01 * rng.standard_t(2, D), -0.4, 0.4)


def flips(change: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a payload brings of it."""
    return (np.sign(change) * (rng.random(D) < np.abs(change)) * 65536).astype(np.int32)


def said(changes: list[np.ndarray], examples: list[int] | None = None) -> dict[int, Said]:
    return {
        slot: Said(lambda change=change: sparse(change), examples[slot] if examples else 100, sparse(change).amount)
        for slot, change in enumerate(changes)
    }


def a_round(seed: int, liars: int, lie: str, own: float = 0.01) -> dict[int, Said]:
    """Honest clients have learnt the same and something of their own; the first ones lie."""
    rng = np.random.default_rng(seed)
    common = truth(rng)
    changes = []
    for client in range(CLIENTS):
        learnt = np.clip(common + own * rng.standard_normal(D) * (rng.random(D) < 0.1), -0.5, 0.5)
        if client < liars:
            learnt = {"opposite": -learnt, "fivefold": np.clip(-5 * learnt, -0.9, 0.9), "drop": np.full(D, -0.9)}[lie]
        changes.append(flips(learnt, rng))
    return said(changes)


@pytest.mark.parametrize("seed", range(5))
def test_honest_clients_count_in_full(seed: int) -> None:
    assert screen(a_round(seed, 0, ""), Limits(), power_of_two) == dict.fromkeys(range(CLIENTS), FULL)


@pytest.mark.parametrize("liars", [1, 2, 3])
@pytest.mark.parametrize("lie", ["opposite", "fivefold"])
def test_who_pushes_against_the_others_is_left_out(lie: str, liars: int) -> None:
    for seed in range(5):
        verdicts = screen(a_round(seed, liars, lie), Limits(), power_of_two)
        assert [slot for slot, verdict in verdicts.items() if verdict.factor == 0] == list(range(liars))
        assert all("against the others" in verdicts[slot].reason for slot in range(liars))
        assert [verdicts[slot] for slot in range(liars, CLIENTS)] == [FULL] * (CLIENTS - liars)


@pytest.mark.parametrize("liars", [1, 2])
def test_who_moves_everything_counts_for_as_much_less(liars: int) -> None:
    given = a_round(1, liars, "drop")
    verdicts = screen(given, Limits(agreement=0), power_of_two)
    usual = np.median([one.amount for one in given.values()])
    for slot in range(liars):
        assert verdicts[slot].factor * given[slot].amount <= 8 * usual
        assert verdicts[slot].factor * given[slot].amount > 4 * usual
        assert np.log2(verdicts[slot].factor).is_integer()
        assert "times the usual change" in verdicts[slot].reason
    assert [verdicts[slot] for slot in range(liars, CLIENTS)] == [FULL] * (CLIENTS - liars)


def test_examples_count_no_more_than_a_multiple_of_the_median() -> None:
    rng = np.random.default_rng(3)
    changes = [flips(truth(rng), rng) for _ in range(5)]
    verdicts = screen(said(changes, [100, 100, 10, 1000, 10**9]), Limits(amount=0, agreement=0), power_of_two)
    assert [verdicts[slot].factor for slot in range(3)] == [1.0] * 3
    assert verdicts[3].factor == 0.5
    assert power_of_two(10**9) * verdicts[4].factor == power_of_two(400)
    assert "1,000,000,000 examples" in verdicts[4].reason
    assert set(screen(said(changes, [10**9] * 5), Limits(agreement=0), power_of_two).values()) == {FULL}


def test_sites_with_nothing_to_learn_are_no_measure_for_the_others() -> None:
    rng = np.random.default_rng(4)
    still = np.zeros(D, np.int32)
    learnt = truth(rng)
    verdicts = screen(said([still, still, still, flips(learnt, rng), flips(learnt, rng)]), Limits(), power_of_two)
    assert set(verdicts.values()) == {FULL}
    assert set(screen(said([still] * 4), Limits(), power_of_two).values()) == {FULL}


def test_sites_that_have_nothing_in_common_are_not_against_each_other() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        changes = [flips(truth(rng), rng) for _ in range(CLIENTS)]
        assert set(screen(said(changes), Limits(), power_of_two).values()) == {FULL}


def test_of_two_nobody_can_tell_who_is_right() -> None:
    rng = np.random.default_rng(5)
    learnt = truth(rng)
    assert set(screen(said([flips(learnt, rng), flips(-learnt, rng)]), Limits(), power_of_two).values()) == {FULL}


def test_at_most_a_third_is_left_out() -> None:
    verdicts = screen(a_round(6, 5, "opposite"), Limits(), power_of_two)
    assert sum(verdict.factor == 0 for verdict in verdicts.values()) <= 3
