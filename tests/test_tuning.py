"""The search for C: the paper's ten values unless samples are asked for, and the simplest of equals."""

import sys

import numpy as np
import pytest

from soundstack.config.steps import PAPER_COSTS
from soundstack.evaluation.metrics import accuracy, confusion_matrix, macro_f1
from soundstack.svm.cost_search import SearchSpec, has_fallen, nested_decisions, search_cost
from soundstack.svm.linear_svm import PathProblem
from soundstack.utils.errors import ConfigError

TRUTH = np.tile([0, 1, 2], 20)
FOLDS = np.repeat(["1", "2", "3", "4"], 15)


class Oracle:
    """Decision values that are right for the more clips the nearer C is to the best; it notes what it was asked."""

    def __init__(self, best=None):
        self.best = best
        self.asked = []

    def __call__(self, costs):
        self.asked.append(list(costs))
        return np.stack([self.decide(cost) for cost in costs])

    def decide(self, cost):
        far = 0.0 if self.best is None else min(1.0, abs(np.log10(cost / self.best)) / 9)
        wrong = np.random.default_rng(0).random(len(TRUTH)) < 0.1 + 0.8 * far
        return np.eye(3)[np.where(wrong, (TRUTH + 1) % 3, TRUTH)]


def search(oracle, trials=0, seed=0):
    return search_cost(oracle, TRUTH, FOLDS, 3, SearchSpec(trials, seed))


def test_by_default_the_papers_ten_values_are_tried_together_and_once():
    oracle = Oracle(1e-4)
    found = search(oracle)
    assert found.costs == PAPER_COSTS
    assert oracle.asked == [list(PAPER_COSTS)]
    assert found.chosen == 1e-4


def test_the_papers_ten_values_are_tried_without_optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert search(Oracle(1e-4)).costs == PAPER_COSTS
    with pytest.raises(ImportError):
        search(Oracle(1e-4), trials=3)


@pytest.mark.parametrize("best", PAPER_COSTS)
def test_the_best_cost_is_chosen_wherever_it_lies(best):
    assert search(Oracle(best)).chosen == best


def test_of_equal_costs_the_smallest_is_chosen():
    assert search(Oracle()).chosen == 1e-9

    class Plateau(Oracle):
        def decide(self, cost):
            return super().decide(1e-4 if 1e-6 <= cost <= 1e-2 else cost)

    assert search(Plateau(1e-4)).chosen == 1e-6


def test_scores_are_those_of_each_held_out_fold_and_decisions_those_of_the_choice():
    oracle = Oracle(1e-3)
    found = search(oracle)
    assert found.fold_accuracy.shape == found.fold_macro_f1.shape == (10, 4)
    np.testing.assert_array_equal(found.decisions, oracle.decide(1e-3))
    for row, cost in enumerate(found.costs):
        for column, fold in enumerate(("1", "2", "3", "4")):
            held_out = fold == FOLDS
            confusion = confusion_matrix(TRUTH[held_out], oracle.decide(cost)[held_out].argmax(axis=1), 3)
            assert found.fold_accuracy[row, column] == accuracy(confusion)
            assert found.fold_macro_f1[row, column] == macro_f1(confusion)


def test_of_more_than_ten_folds_each_has_the_scores_of_its_own_name():
    folds = np.array([str(1 + row % 12) for row in range(len(TRUTH))])
    wrong_in_two = np.eye(3)[np.where(folds == "2", (TRUTH + 1) % 3, TRUTH)]

    found = search_cost(lambda costs: np.stack([wrong_in_two] * len(costs)), TRUTH, folds, 3, SearchSpec())

    assert found.folds == tuple(str(number) for number in range(1, 13))
    np.testing.assert_array_equal(found.fold_accuracy[0], [1, 0, *[1] * 10])
    np.testing.assert_array_equal(found.fold_macro_f1[0], [1, 0, *[1] * 10])


def test_the_choice_is_by_macro_f1_averaged_over_folds_not_by_accuracy():
    truth = np.array([0] * 8 + [1] * 2 + [0] * 8 + [1] * 2)
    folds = np.repeat(["1", "2"], 10)
    majority = np.eye(2)[np.zeros(20, dtype=int)]  # accuracy 0.8, macro-F1 0.44
    balanced = np.eye(2)[np.where(np.arange(20) % 10 < 3, 1 - truth, truth)]  # accuracy 0.7, macro-F1 0.67

    def decide(costs):
        return np.stack([balanced if cost == 1e-2 else majority for cost in costs])

    found = search_cost(decide, truth, folds, 2, SearchSpec())
    assert found.chosen == 1e-2
    assert found.fold_accuracy[7].mean() < found.fold_accuracy[0].mean()


@pytest.mark.parametrize("trials", [1, 12])
def test_so_many_trials_give_so_many_samples_between_the_papers_bounds(trials):
    found = search(Oracle(1e-4), trials=trials)
    assert len(found.costs) == trials
    assert list(found.costs) == sorted(found.costs)
    assert all(1e-9 <= cost <= 1 for cost in found.costs)
    assert found.chosen in found.costs


def test_samples_spread_over_the_decades():
    decades = {int(np.floor(np.log10(cost))) for cost in search(Oracle(), trials=30).costs}
    assert len(decades) >= 5


def test_the_seed_fixes_the_samples():
    assert search(Oracle(1e-4), trials=8, seed=1).costs == search(Oracle(1e-4), trials=8, seed=1).costs
    assert search(Oracle(1e-4), trials=8, seed=1).costs != search(Oracle(1e-4), trials=8, seed=2).costs


def test_more_trials_come_nearer_to_the_best():
    found = search(Oracle(1e-4), trials=25)
    assert abs(np.log10(found.chosen / 1e-4)) < 1


class Peak(Oracle):
    """Right for nine clips in ten up to the best cost, and for fewer with every decade above it."""

    def decide(self, cost):
        far = max(0.0, np.log10(cost / self.best))
        wrong = np.random.default_rng(0).random(len(TRUTH)) < 0.1 + 0.15 * far
        return np.eye(3)[np.where(wrong, (TRUTH + 1) % 3, TRUTH)]


@pytest.mark.parametrize("best", [1e-7, 1e-5])
def test_on_request_the_path_ends_where_the_score_has_clearly_fallen_and_chooses_the_same(best):
    short, whole = Peak(best), Peak(best)
    found = search_cost(short, TRUTH, FOLDS, 3, SearchSpec(stop_early=True))
    assert found.chosen == search(whole).chosen
    assert found.costs == PAPER_COSTS[: len(found.costs)]
    assert best < found.costs[-1] < PAPER_COSTS[-1]
    assert short.asked == [[cost] for cost in found.costs]
    np.testing.assert_array_equal(found.fold_macro_f1, search(whole).fold_macro_f1[: len(found.costs)])


def test_a_score_that_never_falls_clearly_is_followed_to_the_end():
    flat, late = Oracle(), Oracle(1.0)
    for oracle in (flat, late):
        assert search_cost(oracle, TRUTH, FOLDS, 3, SearchSpec(stop_early=True)).costs == PAPER_COSTS


@pytest.mark.parametrize(
    ("later", "fallen"),
    [
        ([[0.5, 0.5], [0.5, 0.5]], True),
        ([[0.5, 0.5], [0.9, 0.9]], False),  # back again
        ([[0.9, 0.9], [0.5, 0.5]], False),  # one is not enough
        ([[0.897, 0.897], [0.897, 0.897]], False),  # less than half a point
        ([[0.1, 0.9], [0.1, 0.9]], False),  # the folds do not agree
    ],
)
def test_one_bad_value_a_small_loss_or_one_bad_fold_does_not_end_the_path(later, fallen):
    assert has_fallen(np.array([[0.2, 0.2], [0.9, 0.9], *later])) is fallen


def test_the_real_path_is_the_same_when_asked_for_value_by_value():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((60, 40)) + np.eye(3)[TRUTH] @ rng.standard_normal((3, 40))
    whole = PathProblem(x, TRUTH, FOLDS, n_classes=3).out_of_fold_decisions(PAPER_COSTS)
    single = PathProblem(x, TRUTH, FOLDS, n_classes=3)
    for cost, decisions in zip(PAPER_COSTS, whole, strict=True):
        np.testing.assert_allclose(single.out_of_fold_decisions([cost])[0], decisions, rtol=1e-6, atol=1e-9)


# nested cross-validation -----------------------------------------------------------------------------------------


def features(seed=0):
    """Overlapping classes in twelve dimensions, (60, 12)."""
    generator = np.random.default_rng(seed)
    return generator.standard_normal((3, 12))[TRUTH] + 1.5 * generator.standard_normal((60, 12))


def nested(x, truth=TRUTH, folds=FOLDS):
    """What each row is judged with."""
    found = nested_decisions(lambda fold: x, truth, folds, 3, SearchSpec())
    return np.stack([found[fold][row] for row, fold in enumerate(folds)])


def test_a_nested_score_never_sees_the_labels_or_the_features_it_is_judged_on():
    x = features()
    honest = nested(x)
    assert honest.shape == (60, 3)
    for fold in ("1", "3"):
        held_out = fold == FOLDS
        other_labels = np.where(held_out, (TRUTH + 1) % 3, TRUTH)
        tampered = nested(x, other_labels)
        np.testing.assert_array_equal(tampered[held_out], honest[held_out])
        assert not np.array_equal(tampered[~held_out], honest[~held_out])
        other_features = x.copy()
        other_features[np.flatnonzero(held_out)[1:]] = 100
        kept = np.flatnonzero(held_out)[0]
        np.testing.assert_allclose(nested(other_features)[kept], honest[kept], rtol=1e-6)


def test_a_nested_decision_is_that_of_a_search_on_the_other_folds():
    x = features()
    held_out = FOLDS == "2"
    inner = PathProblem(x[~held_out], TRUTH[~held_out], FOLDS[~held_out], n_classes=3, clip=10.0)
    found = search_cost(inner.out_of_fold_decisions, TRUTH[~held_out], FOLDS[~held_out], 3, SearchSpec())
    expected = inner.refit(found.chosen).decision(x[held_out])
    np.testing.assert_allclose(nested(x)[held_out], expected, rtol=1e-6)


def test_a_nested_decision_is_the_mean_of_the_fold_svms_where_test_clips_are_scored_so():
    x, held_out = features(), FOLDS == "2"
    inner = PathProblem(x[~held_out], TRUTH[~held_out], FOLDS[~held_out], n_classes=3, clip=10.0)
    cost = search_cost(inner.out_of_fold_decisions, TRUTH[~held_out], FOLDS[~held_out], 3, SearchSpec()).chosen
    expected = np.mean([svm.decision(x[held_out]) for svm in inner.fold_models(cost)], axis=0)
    found = nested_decisions(lambda fold: x, TRUTH, FOLDS, 3, SearchSpec(), refit=False)
    np.testing.assert_allclose(found["2"][held_out], expected, rtol=1e-6)


def test_nested_decisions_on_the_other_folds_are_out_of_fold_among_themselves():
    x = features()
    rest = FOLDS != "2"
    inner = PathProblem(x[rest], TRUTH[rest], FOLDS[rest], n_classes=3, clip=10.0)
    expected = search_cost(inner.out_of_fold_decisions, TRUTH[rest], FOLDS[rest], 3, SearchSpec()).decisions
    found = nested_decisions(lambda fold: x, TRUTH, FOLDS, 3, SearchSpec())["2"]
    np.testing.assert_allclose(found[rest], expected, rtol=1e-6)


def test_nested_cross_validation_needs_a_third_fold_to_choose_on():
    two = np.repeat(["1", "2"], 30)
    with pytest.raises(ConfigError, match="three development folds") as caught:
        nested(features(), folds=two)
    assert "\n" not in str(caught.value)
