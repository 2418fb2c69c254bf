"""The metrics against scikit-learn, on random confusions and on the corners."""

from __future__ import annotations

import doctest
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from soundstack.evaluation import metrics
from soundstack.evaluation.metrics import (
    accuracy,
    calibration,
    class_scores,
    confusion_matrix,
    fold_scores,
    macro_f1,
    mean_scores,
    per_class,
    table_confusion,
)
from soundstack.evaluation.score_table import ScoreTable
from soundstack.utils.errors import DataError


@st.composite
def recognitions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Truth and prediction of up to 60 clips; often some classes do not occur."""
    n_classes = draw(st.integers(2, 8))
    index = st.integers(0, n_classes - 1)
    pairs = draw(st.lists(st.tuples(index, index), min_size=1, max_size=60))
    truth, predicted = np.array(pairs).T
    return truth, predicted, n_classes


@given(recognitions())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_all_scores_equal_those_of_scikit_learn(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    truth, predicted, n_classes = case
    classes = range(n_classes)
    confusion = confusion_matrix(truth, predicted, n_classes)
    assert np.array_equal(confusion, reference.confusion_matrix(truth, predicted, labels=classes))
    assert accuracy(confusion) == pytest.approx(reference.accuracy_score(truth, predicted))
    assert macro_f1(confusion) == pytest.approx(reference.f1_score(truth, predicted, average="macro"))
    expected = reference.precision_recall_fscore_support(truth, predicted, labels=classes, zero_division=0)
    for ours, theirs in zip(class_scores(confusion), expected[:3], strict=True):
        np.testing.assert_allclose(ours, theirs)


def test_a_stack_of_confusions_is_scored_like_each_of_them() -> None:
    confusions = np.random.default_rng(1).integers(0, 4, size=(3, 5, 4, 4))
    for function in (accuracy, macro_f1):
        stacked = function(confusions)
        assert stacked.shape == (3, 5)
        single = [[float(function(confusion)) for confusion in row] for row in confusions]
        np.testing.assert_allclose(stacked, single)
    assert all(scores.shape == (3, 5, 4) for scores in class_scores(confusions))


def test_without_clips_there_is_no_score() -> None:
    assert np.isnan(accuracy(np.zeros((3, 3))))
    assert np.isnan(macro_f1(np.zeros((2, 3, 3)))).all()


def test_scores_by_class_are_plain_numbers_for_json() -> None:
    table = per_class(np.array([[3, 1], [0, 0]]), ("cat", "dog"))
    assert table["cat"] == {"precision": 1.0, "recall": 0.75, "f1": pytest.approx(6 / 7), "support": 4}
    assert table["dog"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert json.loads(json.dumps(table)) == table


def table(folds: tuple[str, ...]) -> ScoreTable:
    """Six clips of three classes; the first three are recognised, of the last three only the first."""
    scores = np.eye(3)[[0, 1, 2, 0, 2, 0]]
    labels = tuple("abcabc")
    clips = tuple(f"{n}.wav" for n in range(6))
    return ScoreTable(clips, labels, folds, scores, ("a", "b", "c"), "decision")


def test_folds_are_scored_apart_and_in_order() -> None:
    scores = fold_scores(table(("10", "10", "10", "2", "2", "2")))
    assert [score.fold for score in scores] == ["2", "10"]
    assert scores[0].accuracy == pytest.approx(1 / 3)
    assert scores[0].macro_f1 == pytest.approx(
        reference.f1_score([0, 1, 2], [0, 2, 0], average="macro", zero_division=0)
    )
    assert scores[1][1:] == (1.0, 1.0)


def test_the_devel_score_is_the_mean_over_folds_and_not_over_clips() -> None:
    uneven = table(("1", "2", "2", "2", "2", "2"))
    assert mean_scores(uneven)[0] == pytest.approx((1 + 3 / 5) / 2)
    assert accuracy(table_confusion(uneven)) == pytest.approx(4 / 6)


def test_the_test_score_is_that_of_all_test_clips() -> None:
    assert mean_scores(table(("test",) * 6))[0] == pytest.approx(4 / 6)


def test_devel_and_test_clips_are_never_averaged_together() -> None:
    with pytest.raises(DataError, match="mixes test clips with fold 1"):
        mean_scores(table(("1", "1", "1", "test", "test", "test")))


def test_the_calibration_error_is_the_weighted_gap_between_confidence_and_accuracy() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    found = calibration(probabilities, [0, 0, 0, 1, 0, 1])
    assert found.error == pytest.approx((4 * abs(0.75 - 0.95) + 2 * abs(0.5 - 0.55)) / 6)
    assert found.clips.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 4]
    assert found.accuracy[9] == pytest.approx(0.75)
    assert np.isnan(found.confidence[0])


def test_a_probability_on_the_edge_of_a_bin_falls_into_the_lower_one() -> None:
    found = calibration([[0.5, 0.5], [1.0, 0.0]], [0, 0], bins=2)
    assert found.clips.tolist() == [1, 1]


def test_probabilities_that_come_true_have_hardly_any_calibration_error() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), size=20_000)
    truth = (rng.random((20_000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    assert calibration(probabilities, truth).error < 0.015
    assert calibration(probabilities, (truth + 1) % 4).error > 0.2


def test_the_examples_in_the_docstrings_hold() -> None:
    results = doctest.testmod(metrics)
    assert results.attempted >= 8
    assert results.failed == 0
