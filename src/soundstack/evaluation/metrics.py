"""Accuracy, F1 and calibration error from class scores (paper section 4).

All scores follow from the confusion matrix, rows = truth, columns = prediction. The functions on confusions
take any leading axes, so that a thousand bootstrap replicates are scored in one call.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from soundstack.evaluation.score_table import ScoreTable
from soundstack.utils.errors import DataError
from soundstack.utils.folds import TEST

Floats = NDArray[np.float64]


class FoldScore(NamedTuple):
    """The scores of one fold; ``accuracy`` and ``macro_f1`` in 0..1."""

    fold: str
    accuracy: float
    macro_f1: float


class Calibration(NamedTuple):
    """Clips binned by the probability of their predicted class; edges (B+1,), the other arrays (B,).

    ``confidence`` and ``accuracy`` are the means of a bin, NaN where it has no clip; ``error`` is the
    expected calibration error in 0..1.
    """

    edges: Floats
    clips: NDArray[np.intp]
    confidence: Floats
    accuracy: Floats
    error: float


def confusion_matrix(truth: ArrayLike, predicted: ArrayLike, n_classes: int) -> NDArray[np.int64]:
    """Count how often class i (row) was recognised as class j (column): (K, K).

    Args:
        truth, predicted: class indices in 0..K-1: (N,)

    >>> confusion_matrix([0, 0, 1, 2], [0, 1, 1, 2], n_classes=3)
    array([[1, 1, 0],
           [0, 1, 0],
           [0, 0, 1]])
    """
    truth, predicted = np.asarray(truth, dtype=np.intp), np.asarray(predicted, dtype=np.intp)
    return np.bincount(truth * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def accuracy(confusion: ArrayLike) -> Floats:
    """Share of clips recognised: trace / sum, in 0..1; NaN without clips. (..., K, K) -> (...).

    >>> float(accuracy([[1, 1, 0], [0, 1, 0], [0, 0, 1]]))
    0.75
    """
    return _ratio(np.trace(confusion, axis1=-2, axis2=-1), np.sum(confusion, axis=(-2, -1)), empty=np.nan)


def class_scores(confusion: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 of each class, each in 0..1: (..., K, K) -> three times (..., K).

    precision = hits / predicted, recall = hits / true, F1 = 2 hits / (predicted + true); 0 where the
    denominator is 0, as in scikit-learn.

    >>> precision, recall, f1 = class_scores([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    >>> precision.tolist(), recall.tolist()
    ([1.0, 0.5, 1.0], [0.5, 1.0, 1.0])
    """
    confusion = np.asarray(confusion)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    return _ratio(hits, predicted), _ratio(hits, true), _ratio(2 * hits, true + predicted)


def macro_f1(confusion: ArrayLike) -> Floats:
    """Unweighted mean of the classes' F1, in 0..1; NaN without clips. (..., K, K) -> (...).

    The mean is over the classes that occur in truth or prediction, scikit-learn's default: a class that a
    small fold has no clip of counts only if something was taken for it.

    >>> round(float(macro_f1([[1, 1, 0], [0, 1, 0], [0, 0, 1]])), 4)
    0.7778
    >>> float(macro_f1([[2, 0, 0], [0, 0, 0], [0, 0, 3]]))  # the class in the middle does not occur
    1.0
    """
    confusion = np.asarray(confusion)
    occurs = (confusion.sum(axis=-1) + confusion.sum(axis=-2)) > 0
    _, _, f1 = class_scores(confusion)
    return _ratio(f1.sum(axis=-1), occurs.sum(axis=-1), empty=np.nan)


def per_class(confusion: ArrayLike, classes: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support (number of true clips) by class, ready for JSON. Takes one (K, K).

    >>> per_class([[1, 1], [0, 2]], ("cat", "dog"))["cat"]
    {'precision': 1.0, 'recall': 0.5, 'f1': 0.6666666666666666, 'support': 2}
    """
    columns = (values.tolist() for values in (*class_scores(confusion), np.sum(confusion, axis=-1)))
    names = ("precision", "recall", "f1", "support")
    rows = (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))
    return dict(zip(classes, rows, strict=True))


def table_confusion(table: ScoreTable) -> NDArray[np.int64]:
    """The confusion over all clips of a table, folds pooled: (K, K)."""
    return confusion_matrix(table.truth, table.predicted, len(table.classes))


def fold_scores(table: ScoreTable) -> list[FoldScore]:
    """Accuracy and macro-F1 on each fold of the table, development folds in order, then ``"test"``."""
    confusions = [(fold, table_confusion(table.select(fold))) for fold in table.fold_names]
    return [FoldScore(fold, float(accuracy(cm)), float(macro_f1(cm))) for fold, cm in confusions]


def mean_scores(table: ScoreTable) -> tuple[float, float]:
    """Accuracy and macro-F1 of a devel or a test table: the mean over its folds (paper section 4).

    Raises:
        DataError: if development and test clips are mixed.
    """
    check_one_split(table)
    folds = fold_scores(table)
    return float(np.mean([f.accuracy for f in folds])), float(np.mean([f.macro_f1 for f in folds]))


def check_one_split(table: ScoreTable) -> None:
    """Refuse a table that mixes development and test clips; raises DataError."""
    if TEST in table.fold_names and len(table.fold_names) > 1:
        raise DataError(
            f"The score table mixes test clips with fold {table.fold_names[0]}: score devel and test apart."
        )


def calibration(probabilities: ArrayLike, truth: ArrayLike, bins: int = 10) -> Calibration:
    """Does a clip that is recognised with 80 % come out right 8 times of 10?

    Clips are binned by their highest probability into ``bins`` equal parts of 0..1. The expected calibration
    error is sum over bins of (clips in bin / N) * |accuracy - mean confidence|: 0 is perfect (Guo et al.
    2017, ICML).

    Args:
        probabilities: (N, K), rows sum to one
        truth: class indices: (N,)

    >>> always_sure = calibration([[1.0, 0.0], [1.0, 0.0]], [0, 1])
    >>> always_sure.error
    0.5
    """
    probabilities, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(truth)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    edges = np.linspace(0.0, 1.0, bins + 1)
    bin_of = np.clip(np.digitize(confidence, edges, right=True) - 1, 0, bins - 1)  # bins are (low, high]
    clips = np.bincount(bin_of, minlength=bins)
    mean_confidence = _ratio(np.bincount(bin_of, confidence, bins), clips, empty=np.nan)
    share_right = _ratio(np.bincount(bin_of, right, bins), clips, empty=np.nan)
    gap = np.nan_to_num(np.abs(share_right - mean_confidence))
    return Calibration(edges, clips, mean_confidence, share_right, float(clips @ gap / len(truth)))


def _ratio(numerator: ArrayLike, denominator: ArrayLike, empty: float = 0.0) -> Floats:
    """Quotient with ``empty`` where the denominator is 0."""
    denominator = np.asarray(denominator, dtype=np.float64)
    filled = np.full(denominator.shape, empty)
    return np.divide(np.asarray(numerator, dtype=np.float64), denominator, out=filled, where=denominator > 0)
