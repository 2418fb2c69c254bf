"""Intervals that hold what they promise, and paired tests against known values and a slow reference."""

from __future__ import annotations

import doctest
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from soundstack.errors import DataError, MemberError
from soundstack.evaluation import statistics
from soundstack.evaluation.metrics import confusion_matrix, macro_f1, mean_scores
from soundstack.evaluation.statistics import (
    Interval,
    bootstrap_intervals,
    holm,
    mcnemar,
    paired_bootstrap_macro_f1,
)
from soundstack.scores import ScoreTable


def classes(n: int) -> tuple[str, ...]:
    return tuple(f"class {index:02d}" for index in range(n))


def recognised(truth: np.ndarray, predicted: np.ndarray, n_classes: int, n_folds: int = 1) -> ScoreTable:
    """A table in which clip i of class truth[i] is recognised as predicted[i]; one fold is the test part."""
    names = classes(n_classes)
    clips = tuple(f"{index}.wav" for index in range(len(truth)))
    folds = tuple("test" if n_folds == 1 else str(1 + index % n_folds) for index in range(len(truth)))
    return ScoreTable(
        clips, tuple(names[label] for label in truth), folds, np.eye(n_classes)[predicted], names, "decision"
    )


def noisy(rng: np.random.Generator, n_clips: int, n_classes: int, accuracy: float, n_folds: int = 1) -> ScoreTable:
    """Each clip is recognised with the probability ``accuracy``, and otherwise taken for the next class."""
    truth = np.arange(n_clips) // n_folds % n_classes
    missed = rng.random(n_clips) >= accuracy
    return recognised(truth, (truth + missed) % n_classes, n_classes, n_folds)


def width(interval: Interval) -> float:
    return interval.high - interval.low


def naive(table: ScoreTable, groups: Mapping[str, str], n_boot: int, seed: int) -> np.ndarray:
    """Macro-F1 of replicates (n_boot,), written down plainly: draw groups in each fold, score, average."""
    rng = np.random.default_rng(seed)
    group = np.array([groups[clip] for clip in table.clips])
    folds, n_classes = np.array(table.folds), len(table.classes)
    replicates = []
    for _ in range(n_boot):
        scores = []
        for fold in set(table.folds):
            names = np.unique(group[folds == fold])
            rows = np.concatenate([np.flatnonzero(group == name) for name in rng.choice(names, len(names))])
            scores.append(macro_f1(confusion_matrix(table.truth[rows], table.predicted[rows], n_classes)))
        replicates.append(np.mean(scores))
    return np.array(replicates)


def test_the_value_is_the_mean_over_folds() -> None:
    table = noisy(np.random.default_rng(0), 90, 3, 0.7, n_folds=4)
    intervals = bootstrap_intervals(table, n_boot=50)
    assert (intervals["accuracy"].value, intervals["macro_f1"].value) == mean_scores(table)


@pytest.mark.parametrize("score", ["accuracy", "macro_f1"])
def test_19_of_20_intervals_hold_the_true_score(score: str) -> None:
    # Both true scores are 0.7, as all classes are alike. Of 200 intervals, 190 hold it on average, with a
    # deviation of 3.1; the bounds are some 4 and 3 deviations off.
    rng = np.random.default_rng(42)
    held = 0
    for seed in range(200):
        interval = bootstrap_intervals(noisy(rng, 200, 5, 0.7), n_boot=300, seed=seed)[score]
        held += interval.low <= 0.7 <= interval.high
    assert 177 <= held <= 199


def test_macro_f1_of_many_small_classes_is_held_too() -> None:
    # Where plain percentiles fail: classes of 4 clips in each of 4 folds.
    rng = np.random.default_rng(7)
    tables = [noisy(rng, 320, 20, 0.6, n_folds=4) for _ in range(60)]
    expected = np.mean([mean_scores(table)[1] for table in tables])
    intervals = [bootstrap_intervals(table, n_boot=300)["macro_f1"] for table in tables]
    assert sum(interval.low <= expected <= interval.high for interval in intervals) >= 52


def test_ungrouped_accuracy_agrees_with_scipy() -> None:
    table = noisy(np.random.default_rng(3), 400, 4, 0.8)
    ours = bootstrap_intervals(table, n_boot=20_000)["accuracy"]
    right = (table.truth == table.predicted).astype(float)
    theirs = stats.bootstrap((right,), np.mean, n_resamples=20_000, method="percentile", rng=1)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.003)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.003)


def test_grouped_macro_f1_over_folds_agrees_with_drawing_the_groups_one_by_one() -> None:
    rng = np.random.default_rng(5)
    table = noisy(rng, 120, 3, 0.7, n_folds=2)
    groups = {clip: f"{fold}-{rng.integers(12)}" for clip, fold in zip(table.clips, table.folds, strict=True)}
    replicates = naive(table, groups, n_boot=1500, seed=8)
    ours = bootstrap_intervals(table, groups, n_boot=10_000)["macro_f1"]
    expected = np.quantile(replicates, [0.025, 0.975]) - replicates.mean() + ours.value
    assert (ours.low, ours.high) == pytest.approx(expected, abs=0.012)


def test_copies_of_a_clip_do_not_make_the_score_surer() -> None:
    single = noisy(np.random.default_rng(11), 80, 4, 0.75)
    copied = recognised(np.repeat(single.truth, 9), np.repeat(single.predicted, 9), 4)
    groups = {clip: f"source {index // 9}" for index, clip in enumerate(copied.clips)}
    for score in ("accuracy", "macro_f1"):
        of_singles = bootstrap_intervals(single, n_boot=4000)[score]
        by_group = bootstrap_intervals(copied, groups, n_boot=4000)[score]
        by_clip = bootstrap_intervals(copied, n_boot=4000)[score]
        assert width(by_group) == pytest.approx(width(of_singles), rel=0.1)
        assert width(by_clip) == pytest.approx(width(of_singles) / 3, rel=0.1)  # what ignoring groups would claim


def test_a_wider_level_gives_a_wider_interval() -> None:
    table = noisy(np.random.default_rng(2), 100, 4, 0.7)
    narrow, wide = (bootstrap_intervals(table, level=level)["accuracy"] for level in (0.68, 0.95))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_a_perfect_score_has_an_interval_of_no_width_at_one() -> None:
    truth = np.arange(40) % 4
    for score in bootstrap_intervals(recognised(truth, truth, 4, n_folds=4)).values():
        assert score == Interval(1.0, 1.0, 1.0)


def test_an_interval_never_leaves_0_to_1() -> None:
    truth = np.arange(40) % 4
    nearly = np.where(np.arange(40) == 0, 1, truth)
    for predicted in (nearly, np.where(nearly == truth, (truth + 1) % 4, truth)):
        for interval in bootstrap_intervals(recognised(truth, predicted, 4)).values():
            assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_the_seed_and_nothing_else_decides_the_draw() -> None:
    table = noisy(np.random.default_rng(9), 60, 3, 0.7, n_folds=2)
    groups = {clip: f"g{index // 4}" for index, clip in enumerate(table.clips)}
    renamed = {clip: f"source {99 - int(group[1:])}" for clip, group in groups.items()}
    turned = table.reordered(table.clips[::-1])
    intervals = bootstrap_intervals(table, groups, seed=4)
    assert bootstrap_intervals(turned, renamed, seed=4) == intervals
    assert bootstrap_intervals(table, groups, seed=5) != intervals


def test_the_chunk_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    table = noisy(np.random.default_rng(9), 60, 3, 0.7, n_folds=2)
    whole = bootstrap_intervals(table, n_boot=101)
    monkeypatch.setattr(statistics, "_CHUNK_VALUES", 100)
    assert bootstrap_intervals(table, n_boot=101) == whole


def test_a_clip_without_a_group_is_named() -> None:
    table = noisy(np.random.default_rng(9), 10, 3, 0.7)
    groups = dict.fromkeys(table.clips[:-1], "g")
    with pytest.raises(DataError, match=r"'9\.wav' has no group"):
        bootstrap_intervals(table, groups)


def test_devel_and_test_clips_are_not_drawn_together() -> None:
    table = noisy(np.random.default_rng(9), 10, 3, 0.7)
    mixed = replace(table, folds=("1", *table.folds[1:]))
    with pytest.raises(DataError, match="mixes test clips"):
        bootstrap_intervals(mixed)


def test_two_equal_systems_do_not_differ() -> None:
    table = noisy(np.random.default_rng(1), 100, 4, 0.7, n_folds=4)
    found = paired_bootstrap_macro_f1(table, table, n_boot=200)
    assert found.interval == Interval(0.0, 0.0, 0.0)
    assert found.p_value == 1.0


def test_a_clearly_better_system_is_found_better() -> None:
    rng = np.random.default_rng(1)
    better, worse = noisy(rng, 300, 4, 0.9, n_folds=4), noisy(rng, 300, 4, 0.6, n_folds=4)
    found = paired_bootstrap_macro_f1(better, worse, n_boot=1000)
    assert found.interval.value == pytest.approx(mean_scores(better)[1] - mean_scores(worse)[1])
    assert 0.15 < found.interval.low < found.interval.value < found.interval.high < 0.45
    assert found.p_value == pytest.approx(2 / 1001)


def test_swapping_the_systems_turns_the_difference_round() -> None:
    rng = np.random.default_rng(6)
    one, other = noisy(rng, 200, 4, 0.75), noisy(rng, 200, 4, 0.7)
    there, back = paired_bootstrap_macro_f1(one, other), paired_bootstrap_macro_f1(other, one)
    assert back.interval.value == pytest.approx(-there.interval.value)
    assert back.interval.low == pytest.approx(-there.interval.high, abs=0.01)
    assert back.p_value == pytest.approx(there.p_value, abs=0.03)


def test_pairing_finds_a_difference_that_two_intervals_apart_would_hide() -> None:
    rng = np.random.default_rng(12)
    worse = noisy(rng, 300, 3, 0.7)
    predicted = worse.predicted.copy()
    missed = np.flatnonzero(predicted != worse.truth)[:20]
    predicted[missed] = worse.truth[missed]
    better = recognised(worse.truth, predicted, 3)
    assert bootstrap_intervals(better)["macro_f1"].low < bootstrap_intervals(worse)["macro_f1"].high
    assert paired_bootstrap_macro_f1(better, worse, n_boot=1000).interval.low > 0


def test_without_a_difference_small_p_values_are_rare() -> None:
    rng = np.random.default_rng(21)
    p_values = [
        paired_bootstrap_macro_f1(noisy(rng, 200, 4, 0.7), noisy(rng, 200, 4, 0.7), n_boot=300).p_value
        for _ in range(150)
    ]
    assert 0 <= np.mean(np.array(p_values) < 0.05) <= 0.12
    assert 0.4 < np.mean(np.array(p_values) < 0.55) < 0.7


def test_copied_clips_do_not_make_a_difference_significant() -> None:
    rng = np.random.default_rng(30)
    truth = np.arange(40) % 4
    one, other = noisy(rng, 40, 4, 0.75).predicted, noisy(rng, 40, 4, 0.65).predicted
    a, b = (recognised(np.repeat(truth, 20), np.repeat(found, 20), 4) for found in (one, other))
    groups = {clip: str(index // 20) for index, clip in enumerate(a.clips)}
    assert paired_bootstrap_macro_f1(a, b, n_boot=1000).p_value < 0.01
    assert paired_bootstrap_macro_f1(a, b, groups, n_boot=1000).p_value > 0.05


def test_the_order_of_the_other_systems_clips_does_not_matter() -> None:
    rng = np.random.default_rng(8)
    one, other = noisy(rng, 100, 4, 0.8), noisy(rng, 100, 4, 0.7)
    shuffled = other.reordered(other.clips[::-1])
    assert paired_bootstrap_macro_f1(one, shuffled, n_boot=200) == paired_bootstrap_macro_f1(one, other, n_boot=200)


def test_systems_on_different_data_are_not_compared() -> None:
    one = noisy(np.random.default_rng(8), 100, 4, 0.8)
    with pytest.raises(MemberError, match="different clips"):
        paired_bootstrap_macro_f1(one, noisy(np.random.default_rng(8), 99, 4, 0.8))
    for changes in (
        {"labels": one.labels[::-1]},
        {"folds": ("1",) * 100},
        {"classes": tuple(sorted([*one.classes[:-1], "class x"])), "labels": one.labels[:1] * 100},
    ):
        with pytest.raises(MemberError, match="differ in their"):
            paired_bootstrap_macro_f1(one, replace(one, **changes))


@pytest.mark.parametrize(("only_a", "only_b"), [(1, 9), (9, 1), (5, 5), (12, 13), (0, 1), (0, 0), (40, 17)])
def test_mcnemar_is_the_binomial_test_on_discordant_clips(only_a: int, only_b: int) -> None:
    both = 7
    right_a = np.array([1] * only_a + [0] * only_b + [1] * both + [0] * both)
    right_b = np.array([0] * only_a + [1] * only_b + [1] * both + [0] * both)
    found = mcnemar(np.ones(len(right_a)), right_a, right_b)
    discordant = only_a + only_b
    exact = stats.binomtest(only_a, discordant).pvalue if discordant else 1.0
    at_edge = stats.binom.pmf(only_a, discordant, 0.5)
    assert (found.only_a, found.only_b) == (only_a, only_b)
    assert found.exact_p == pytest.approx(exact)
    # The mid-p value counts what was observed half in each tail; with even wins both tails are all there is.
    assert found.mid_p == pytest.approx(1.0 if only_a == only_b else exact - at_edge)


def test_mcnemar_needs_predictions_of_the_same_clips() -> None:
    with pytest.raises(ValueError, match="equally long"):
        mcnemar([0, 1], [0, 1], [0])


def test_holm_corrects_as_in_the_definition() -> None:
    # Worked by hand: 0.005*4, max(0.02, 0.011*3), max(., 0.02*2), max(., 0.04*1).
    assert holm([0.02, 0.005, 0.04, 0.011]).tolist() == pytest.approx([0.04, 0.02, 0.04, 0.033])


def test_holm_is_between_no_correction_and_bonferroni_and_keeps_the_order() -> None:
    p_values = np.random.default_rng(0).random(30) ** 3
    corrected = holm(p_values)
    assert np.all(corrected >= p_values)
    assert np.all(corrected <= np.minimum(1.0, 30 * p_values))
    assert np.all(np.diff(corrected[np.argsort(p_values)]) >= 0)
    assert corrected.max() <= 1.0


def test_holm_of_one_and_of_none() -> None:
    assert holm([0.3]).tolist() == [0.3]
    assert holm([]).tolist() == []


def test_the_examples_in_the_docstrings_hold() -> None:
    results = doctest.testmod(statistics)
    assert results.attempted >= 3
    assert results.failed == 0
