"""Calibrated probabilities: they sum to one, keep the ranking, and are no more certain than they are right."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from soundstack.evaluation.calibration import fit_inverse_temperature, gain_of_mean, logits, probabilities


def log_loss(values, truth):
    return -np.log(np.maximum(values[np.arange(len(truth)), truth], 1e-300)).mean()


def decisions(n=400, classes=4, skill=1.5, seed=0):
    """Logits whose softmax is calibrated by construction, and classes drawn from it."""
    generator = np.random.default_rng(seed)
    values = skill * generator.standard_normal((n, classes))
    chances = np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
    truth = np.array([generator.choice(classes, p=row) for row in chances])
    return values, truth


SCORES = arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(2, 6)), elements=st.floats(-50, 50))


@given(SCORES, st.floats(1e-3, 1e3))
def test_decision_values_become_rows_that_sum_to_one_and_rank_as_before(scores, inverse_temperature):
    found = probabilities(scores, "decision", inverse_temperature)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-9)
    assert (found >= 0).all()
    top = scores.argmax(axis=1)
    assert (found[np.arange(len(scores)), top] == found.max(axis=1)).all()


@given(SCORES, st.floats(1e-3, 1e3))
def test_probabilities_keep_their_ranking_too(scores, inverse_temperature):
    raw = np.exp(scores - scores.max(axis=1, keepdims=True))
    raw /= raw.sum(axis=1, keepdims=True)
    found = probabilities(raw, "probability", inverse_temperature)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-9)
    top = raw.argmax(axis=1)
    assert (found[np.arange(len(raw)), top] == found.max(axis=1)).all()


def test_a_sharpness_of_one_leaves_probabilities_as_they_are():
    raw = np.array([[0.2, 0.5, 0.3], [0.01, 0.01, 0.98]])
    np.testing.assert_allclose(probabilities(raw, "probability", 1.0), raw)


def test_a_probability_of_zero_has_a_finite_logit():
    assert np.isfinite(logits(np.array([[0.0, 1.0]]), "probability")).all()
    scores = np.array([[-3.0, 2.0]])
    np.testing.assert_array_equal(logits(scores, "decision"), scores)


@pytest.mark.parametrize("stretch", [1e-9, 1e-4, 0.05, 0.3, 1.0, 4.0, 50.0, 1e6])
def test_the_fit_undoes_over_and_underconfidence_and_lowers_the_log_loss(stretch):
    values, truth = decisions()
    inverse_temperature = fit_inverse_temperature(stretch * values, truth, "decision")
    ideal = fit_inverse_temperature(values, truth, "decision")
    assert ideal == pytest.approx(1, rel=0.15)
    assert inverse_temperature == pytest.approx(ideal / stretch, rel=1e-3)
    before = log_loss(probabilities(stretch * values, "decision", 1.0), truth)
    after = log_loss(probabilities(stretch * values, "decision", inverse_temperature), truth)
    assert after <= before + 1e-12
    if stretch > 1:
        assert after < before - 0.1


def test_overconfident_probabilities_are_softened():
    values, truth = decisions()
    raw = probabilities(values, "decision", 5.0)
    inverse_temperature = fit_inverse_temperature(raw, truth, "probability")
    assert 0 < inverse_temperature < 0.5
    assert log_loss(probabilities(raw, "probability", inverse_temperature), truth) < log_loss(raw, truth) - 0.1


@pytest.mark.parametrize("skill", [0.0, 100.0])
def test_hopeless_and_perfect_scores_still_give_a_bounded_sharpness(skill):
    generator = np.random.default_rng(0)
    truth = np.arange(60) % 3
    values = skill * np.eye(3)[truth] + 1e-3 * generator.standard_normal((60, 3))
    inverse_temperature = fit_inverse_temperature(values, truth, "decision")
    assert 1e-3 <= inverse_temperature * np.std(values) <= 2e3
    assert np.isfinite(probabilities(values, "decision", inverse_temperature)).all()


def test_scores_that_tell_nothing_apart_give_equal_probabilities():
    values = np.full((6, 3), -1.0)
    inverse_temperature = fit_inverse_temperature(values, np.arange(6) % 3, "decision")
    np.testing.assert_allclose(probabilities(values, "decision", inverse_temperature), 1 / 3)


def test_an_svm_of_the_smallest_cost_is_as_sure_as_its_ranking_deserves():
    values, truth = decisions(skill=4.0)
    shares = probabilities(1e-9 * values - 1, "decision", fit_inverse_temperature(1e-9 * values - 1, truth, "decision"))
    assert shares.max(axis=1).mean() > 0.8


# the mean of several models -----------------------------------------------------------------------------------------


def models(count=4, n=6000, classes=5, shared=1.0, own=1.0, seed=0):
    """Probabilities (models, n, classes) of models that share a part of their errors, and the true classes."""
    generator = np.random.default_rng(seed)
    truth = np.arange(n) % classes
    signal = 2 * np.eye(classes)[truth] + shared * generator.standard_normal((n, classes))
    values = 2.5 * (signal + own * generator.standard_normal((count, n, classes)))  # too certain, as trained networks
    return np.exp(values) / np.exp(values).sum(axis=2, keepdims=True), truth


@pytest.mark.parametrize("own", [0.3, 0.6, 1.0])
def test_a_mean_of_models_is_nearly_as_certain_as_right_though_only_two_were_known(own):
    each, truth = models(own=own)
    of_one = fit_inverse_temperature(each[0], truth, "probability")
    gain = fit_inverse_temperature(each[:2].mean(axis=0), truth, "probability") / of_one
    mean = each.mean(axis=0)
    right = np.mean(mean.argmax(axis=1) == truth)
    gap = probabilities(mean, "probability", of_one * gain_of_mean(gain, 4)).max(axis=1).mean() - right
    gap_by_one = probabilities(mean, "probability", of_one).max(axis=1).mean() - right
    assert gap_by_one < -0.03  # underconfident by 4, 12 and 25 points
    assert abs(gap) < abs(gap_by_one) / 3


def test_the_gain_of_a_mean_is_that_of_two_for_two_and_stays_within_what_chance_can_do():
    assert gain_of_mean(1.3, 1) == 1
    assert gain_of_mean(1.3, 2) == pytest.approx(1.3)
    assert gain_of_mean(0.8, 4) == gain_of_mean(1.0, 4) == 1
    assert gain_of_mean(5.0, 4) == gain_of_mean(2.0, 4) == pytest.approx(4)
