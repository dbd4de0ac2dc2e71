"""The step of local training by what its updates cost."""

from __future__ import annotations

import pytest

from common.config.run import RunConfig
from deltamask_server.methods.deltamask.step_control import StepControl


def steps(control: StepControl, *bpps: float) -> list[float]:
    """The step after each round that spent so much."""
    found = []
    for bpp in bpps:
        control.spent(bpp)
        found.append(control.step)
    return found


def test_the_first_step_is_the_run_configs() -> None:
    assert StepControl(18.0, 0.01).step == 18.0


def test_it_shrinks_in_proportion_where_a_round_was_over_its_budget() -> None:
    assert steps(StepControl(10.0, 0.01), 0.0125) == pytest.approx([8.0])


def test_it_changes_by_a_factor_of_two_at_most() -> None:
    assert steps(StepControl(10.0, 0.01), 1.0, 1.0) == pytest.approx([5.0, 2.5])
    assert steps(StepControl(10.0, 0.01), 1e-6) == pytest.approx([20.0])


def test_it_grows_back_where_there_is_room() -> None:
    assert steps(StepControl(10.0, 0.01), 0.02, 0.005) == pytest.approx([5.0, 10.0])
    assert steps(StepControl(10.0, 0.01), 0.01) == pytest.approx([10.0])


def test_it_never_grows_beyond_sixteen_times_the_first() -> None:
    assert steps(StepControl(10.0, 0.01), *[1e-6] * 6) == pytest.approx([20.0, 40.0, 80.0, 160.0, 160.0, 160.0])


def test_a_payload_that_grows_with_the_square_of_the_step_needs_the_root_of_the_correction() -> None:
    assert steps(StepControl(10.0, 0.01, growth=2.0), 0.0225) == pytest.approx([10 / 1.5])
    assert steps(StepControl(10.0, 0.01, growth=2.0), 1.0) == pytest.approx([5.0])


def test_zero_is_no_limit() -> None:
    assert steps(StepControl(10.0, 0.0), 32.0, 1e-9) == [10.0, 10.0]


def test_a_round_that_sent_nothing_says_nothing() -> None:
    assert steps(StepControl(10.0, 0.01), 0.0) == [10.0]


def test_each_optimiser_has_its_own_step_and_only_gradient_steps_a_budget() -> None:
    sgd = StepControl.from_config(RunConfig(score_step=7.0, target_bpp=0.5), 2.0)
    assert (sgd.step, sgd.target_bpp, sgd.growth) == (7.0, 0.5, 2.0)
    adam = StepControl.from_config(RunConfig(score_optimiser="adam", learning_rate=0.2), 1.0)
    assert (adam.step, adam.target_bpp) == (0.2, 0.0)
