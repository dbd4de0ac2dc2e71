"""Figures for classes of unequal size: where nine images in ten are of one class, accuracy says little.

All follow from the confusion matrix, and are those of scikit-learn's functions of the same names (a test compares
them), which a client need not import for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClassFigures", "class_figures", "confusion_matrix"]


@dataclass(frozen=True)
class ClassFigures:
    """How well classes are told apart, each class counting the same."""

    balanced_accuracy: float
    """Mean recall of the classes that occur, in [0, 1]."""
    macro_f1: float
    """Mean F1 of the classes that occur or are predicted, in [0, 1]."""
    recall: tuple[float | None, ...]
    """Share of each class's images that are named right; None for a class without images."""


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Images of each class (rows) by what they are taken for (columns), int64 ``(classes, classes)``."""
    counts = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def class_figures(confusion: NDArray[np.int64]) -> ClassFigures:
    """Figures of a `confusion_matrix`; 0 where there are no images."""
    right, images, taken = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    recall = [int(hit) / int(n) if n else None for hit, n in zip(right, images, strict=True)]
    known = [value for value in recall if value is not None]
    seen = (images + taken) > 0
    f1 = 2 * right[seen] / (images + taken)[seen]
    return ClassFigures(float(np.mean(known)) if known else 0.0, float(f1.mean()) if len(f1) else 0.0, tuple(recall))
