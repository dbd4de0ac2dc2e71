"""The gain of a round by what its updates cost."""

from __future__ import annotations

import numpy as np
import pytest

from common.codecs import SharedState, get_codec
from common.config.run import RunConfig
from common.errors import BadGeometry
from deltamask_server.methods.deltamask.gain_control import GainControl


def gains(control: GainControl, *bpps: float) -> list[float]:
    """The gain after each round that spent so much."""
    found = []
    for number, bpp in enumerate(bpps, 1):
        control.spent(bpp, number)
        found.append(control.gain)
    return found


def control(target: float = 0.01, growth: float = 1.0, steps: tuple[float, ...] = (1.0,) * 5) -> GainControl:
    return GainControl(4.0, 1.0, 64.0, target, growth, steps)


def test_the_first_gain_is_the_codecs_where_there_is_a_budget_and_else_the_least() -> None:
    assert control().gain == 4.0
    assert control(target=0.0).gain == 1.0


def test_another_budget_begins_with_the_gain_that_it_would_buy() -> None:
    assert control(target=0.001).gain == pytest.approx(40.0)
    assert control(target=0.0001).gain == 64.0
    assert control(target=0.02).gain == pytest.approx(2.0)
    assert control(target=1.0).gain == 1.0
    assert control(target=0.0025, growth=2.0).gain == pytest.approx(8.0)


def test_a_run_on_its_budget_stays_as_it_is() -> None:
    assert gains(control(), 0.01, 0.01, 0.01, 0.01, 0.01) == pytest.approx([4.0] * 5)


def test_what_one_round_was_over_is_saved_in_those_that_follow() -> None:
    # 0.05 in all: 0.03 are left for four rounds that would have 0.08
    assert gains(control(), 0.02) == pytest.approx([4.0 * 0.08 / 0.03])
    assert gains(control(), 0.02, 0.0075, 0.0075) == pytest.approx([4.0 * 0.08 / 0.03] * 3)


def test_what_one_round_was_under_is_there_for_those_that_follow() -> None:
    assert gains(control(), 0.006) == pytest.approx([4.0 * 0.024 / 0.044])


def test_payloads_change_by_a_factor_of_four_at_most_and_gains_keep_their_limits() -> None:
    assert gains(control(), 1.0, 1.0, 1.0) == pytest.approx([16.0, 64.0, 64.0])
    assert gains(control(), 1e-6) == pytest.approx([1.0])
    assert gains(control(growth=2.0), 1.0, 1.0, 1.0) == pytest.approx([8.0, 16.0, 32.0])


def test_a_payload_that_grows_with_the_square_of_the_change_needs_the_root_of_the_correction() -> None:
    assert gains(control(growth=2.0), 0.02) == pytest.approx([4.0 * (0.08 / 0.03) ** 0.5])


def test_the_schedule_of_steps_is_foreseen() -> None:
    steps = (100.0, 50.0, 25.0, 25.0, 0.0)
    assert gains(control(steps=steps), 0.025, 0.0125, 0.00625) == pytest.approx([4.0, 4.0, 4.0])
    assert gains(control(growth=2.0, steps=(2.0, 1.0)), 0.016) == pytest.approx([4.0])


def test_without_a_budget_it_stays_where_it_is() -> None:
    assert gains(control(target=0.0), 32.0, 1e-9) == [1.0, 1.0]


def test_a_round_that_sent_nothing_says_nothing() -> None:
    assert gains(control(), 0.0) == [4.0]


def test_no_change_counts_for_more_than_was_asked_for_with_room_for_narrow_links() -> None:
    theta = np.full(1000, 60_000, np.uint16)
    shared, local = SharedState(theta, 1, 1, 0), np.full(1000, 0.5, np.float32)
    asked = GainControl(2.0, 1.0, 64.0, 0.01, 1.0, (1.0, 1.0))
    for name, most in (("exact", 8.0), ("fuse8", 8.0), ("relative", 2**3.5)):
        for gain in (0.25, 1.0, most):
            asked.check(get_codec(name, gain=gain).encode(local, shared))
        for gain in (1.1 * most, 64.0):
            with pytest.raises(BadGeometry, match="count"):
                asked.check(get_codec(name, gain=gain).encode(local, shared))
    with pytest.raises(BadGeometry, match="count"):
        asked.check(get_codec("bitmap", gain=2.0).encode(local, shared))


def test_masks_are_counted_as_they_are() -> None:
    beta = GainControl.from_config(RunConfig(aggregation="beta"))
    assert (beta.gain, gains(beta, 1.0)) == (1.0, [1.0])
    sized = GainControl.from_config(RunConfig(codec="bitmap", target_bpp=0.5))
    assert gains(sized, 1.0, 0.1) == [1.0, 1.0]
    flips = GainControl.from_config(RunConfig(codec="relative", target_bpp=0.5, num_server_rounds=3))
    assert flips.gain == pytest.approx(2**1.5 * (0.01 / 0.5) ** 0.5)
    assert (flips.least, flips.target_bpp, flips.growth) == (0.25, 0.5, 2.0)
    assert list(flips.steps) == pytest.approx([320.0, 176.0, 32.0])
