"""Which model a run ends with."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from common.models.heads import Head
from common.saved import Saved
from deltamask_server.kept import Keeper


def head(number: int) -> Head:
    return Head(np.full((2, 3), number, np.float32), np.zeros(2, np.float32))


def looked(
    *accuracies: float | None, patience: int = 0, first: int = 0, losses: Sequence[float] = (1.0,) * 9
) -> Keeper:
    """Who heard of the models of rounds ``first``, ``first + 1``, ..., each named by its round."""
    keeper = Keeper(patience)
    for number, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=False), start=first):
        said = None if accuracy is None else (accuracy, loss)
        keeper.look(number, said, lambda number=number: {"theta": torch.tensor([number])}, head(number))
    return keeper


def kept(keeper: Keeper) -> int:
    assert keeper.best is not None
    assert keeper.best.tensors["theta"].item() == keeper.best.server_round, "the model is that round's"
    assert keeper.best.head.to_bytes() == head(keeper.best.server_round).to_bytes()
    return keeper.best.server_round


def test_the_best_is_kept() -> None:
    assert kept(looked(0.5, 0.6, 0.9, 0.7)) == 2
    assert kept(looked(0.6, 0.9, 0.7, first=1)) == 2, "also where nobody asked about the head"


def test_of_equal_accuracies_the_lower_loss_is_kept_and_then_the_later() -> None:
    assert kept(looked(0.5, 0.9, 0.9, 0.8)) == 2
    assert kept(looked(0.5, 0.9, 0.9, 0.8, losses=(2.0, 0.3, 0.4, 0.1))) == 1
    assert kept(looked(0.9, 0.9, 0.8, losses=(2.0, 0.4, 0.1))) == 1, "the head alone is no exception"


def test_a_model_that_is_worse_than_the_head_alone_is_not_kept() -> None:
    assert kept(looked(0.9, 0.9, 0.8, losses=(1.0, 1.1, 0.1))) == 0
    assert kept(looked(0.9, 0.8, 0.7, losses=(2.0, 0.1, 0.1))) == 0
    assert kept(looked(0.9, 0.9, 0.9)) == 0, "one that is the same in every respect has learnt nothing"
    assert kept(looked(0.9, 0.8, 0.901, losses=(0.1, 0.2, 0.3))) == 2


def test_tensors_of_a_worse_model_are_not_even_made() -> None:
    keeper = looked(0.9)
    keeper.look(1, (0.8, 0.1), lambda: pytest.fail("made"), head(1))


def test_without_images_held_out_nothing_is_kept() -> None:
    keeper = looked(None, None, patience=1)
    assert keeper.best is None
    assert keeper.first is None
    assert keeper.checked == []
    assert not keeper.gave_up


def test_a_round_that_nobody_answered_is_passed_over() -> None:
    keeper = looked(0.5, None, 0.6)
    assert kept(keeper) == 2
    assert keeper.checked == [(0, 0.5), (2, 0.6)]


def test_it_remembers_what_it_heard() -> None:
    keeper = looked(0.5, 0.9, 0.7)
    assert keeper.first == 0.5
    assert keeper.checked == [(0, 0.5), (1, 0.9), (2, 0.7)]
    assert looked(0.9, first=1).first is None


def test_patience_ends_where_no_better_model_has_come_for_so_many_rounds() -> None:
    course = (0.5, 0.9, 0.8, 0.7)
    assert [looked(*course[:count], patience=2).gave_up for count in (2, 3, 4)] == [False, False, True]
    assert not looked(0.5, 0.9, 0.8, 0.9, patience=2).gave_up, "one as good counts"
    assert looked(0.5, 0.4, 0.4, patience=2).gave_up, "so do rounds that do not beat the head"
    assert not looked(0.5, None, None, None, patience=2).gave_up, "rounds that nobody looked at do not"
    assert not looked(0.9, *[0.1] * 50).gave_up, "0 is patience without end"


@pytest.mark.parametrize("accuracies", [(0.5, 0.9, 0.7), (0.9, 0.8), (None, None), ()])
def test_a_state_goes_on_as_the_keeper_did(accuracies: tuple[float | None, ...]) -> None:
    keeper, fresh = looked(*accuracies, patience=2), Keeper(2)
    saved, file = keeper.state(), io.BytesIO()
    np.savez(file, **saved.arrays)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        fresh.load_state(Saved({name: arrays[name] for name in arrays}, json.loads(json.dumps(saved.values))))
    assert (fresh.first, fresh.checked) == (keeper.first, keeper.checked)
    assert (fresh.best is None) == (keeper.best is None)
    for each in (keeper, fresh):
        each.look(9, (0.85, 0.5), lambda: {"theta": torch.tensor([9])}, head(9))
    assert kept(fresh) == kept(keeper)
    assert (fresh.best.accuracy, fresh.best.loss) == (keeper.best.accuracy, keeper.best.loss)
    assert fresh.gave_up == keeper.gave_up


def test_a_theta_of_sixteen_bits_survives_a_state() -> None:
    keeper, fresh = Keeper(), Keeper()
    theta = torch.tensor([1, 40_000, 65_535], dtype=torch.int32).to(torch.uint16)
    keeper.look(1, (0.5, 0.5), lambda: {"theta": theta}, head(1))
    fresh.load_state(keeper.state())
    assert fresh.best.tensors["theta"].dtype == torch.uint16
    assert np.array_equal(fresh.best.tensors["theta"].numpy(), theta.numpy())
