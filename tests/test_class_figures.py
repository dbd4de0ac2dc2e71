"""Figures for classes of unequal size are those of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from common.models.accuracy import score_images
from common.models.class_figures import class_figures, confusion_matrix

CLASSES = 6
LABELS = st.integers(0, CLASSES - 1)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
@given(st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=60))
def test_they_are_those_of_scikit_learn(answers: list[tuple[int, int]]) -> None:
    labels, predicted = np.array(answers).T
    confusion = confusion_matrix(labels, predicted, CLASSES)
    assert confusion.dtype == np.int64
    assert np.array_equal(confusion, metrics.confusion_matrix(labels, predicted, labels=range(CLASSES)))
    figures = class_figures(confusion)
    assert figures.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    assert figures.macro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    recall = metrics.recall_score(labels, predicted, average=None, labels=range(CLASSES), zero_division=np.nan)
    assert np.allclose([np.nan if value is None else value for value in figures.recall], recall, equal_nan=True)


def test_a_class_that_does_not_occur_has_no_recall_and_lowers_nothing() -> None:
    labels, predicted = np.array([0, 0, 2, 2]), np.array([0, 2, 2, 2])
    figures = class_figures(confusion_matrix(labels, predicted, 4))
    assert figures.recall == (0.5, None, 1.0, None)
    assert figures.balanced_accuracy == 0.75
    assert figures.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_a_class_that_is_predicted_alone_lowers_f1_and_no_recall() -> None:
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    figures = class_figures(confusion_matrix(labels, predicted, 3))
    assert figures.balanced_accuracy == 0.75
    assert figures.macro_f1 == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_nine_images_in_ten_of_one_class_do_not_hide_the_other() -> None:
    labels, predicted = np.repeat([0, 1], [90, 10]), np.zeros(100, np.int64)
    assert class_figures(confusion_matrix(labels, predicted, 2)).balanced_accuracy == 0.5


def test_without_images_all_is_zero() -> None:
    none = np.zeros(0, np.int64)
    figures = class_figures(confusion_matrix(none, none, 3))
    assert (figures.balanced_accuracy, figures.macro_f1, figures.recall) == (0.0, 0.0, (None, None, None))


class Tokens:
    """As activations in memory."""

    device = torch.device("cpu")

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def batches(self, size: int):
        for start in range(0, len(self.values), size):
            yield slice(start, start + size), self.values[start : start + size]


def test_a_networks_answers_are_counted_batch_by_batch() -> None:
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    labels = np.random.default_rng(0).integers(0, 4, 50)
    found = [score_images(torch.nn.Identity(), lambda x: x, Tokens(logits), labels, size) for size in (50, 7)]
    for scored in found:
        assert scored.accuracy == (logits.argmax(1).numpy() == labels).mean()
        assert scored.loss == pytest.approx(
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).item(), rel=1e-5
        )
        assert np.array_equal(scored.confusion, confusion_matrix(labels, logits.argmax(1).numpy(), 4))
    nothing = score_images(torch.nn.Identity(), lambda x: x, Tokens(logits[:0]), labels[:0], 7)
    assert nothing[:2] == (0.0, 0.0)
    assert class_figures(nothing.confusion).balanced_accuracy == 0.0
