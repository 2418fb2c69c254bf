"""Intervals that hold what they promise, and paired tests against known values and a slow reference."""

from __future__ import annotations

import doctest
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from soundstack.evaluation import statistics
from soundstack.evaluation.metrics import mean_scores
from soundstack.evaluation.score_table import ScoreTable
from soundstack.evaluation.statistics import Interval, few_groups, holm, mcnemar, paired_tests, score_intervals
from soundstack.utils.errors import DataError, MemberError


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


def jackknife(table: ScoreTable, groups: Mapping[str, str], score: int) -> float:
    """Variance of a score by leaving out one group of a fold after the other, written down plainly."""
    group, folds = np.array([groups[clip] for clip in table.clips]), np.array(table.folds)
    variance = 0.0
    for fold in set(table.folds):
        names = np.unique(group[folds == fold])
        left = [
            mean_scores(table.rows(np.flatnonzero((group != name) | (folds != fold)).tolist()))[score] for name in names
        ]
        variance += (len(names) - 1) * np.var(left)
    return variance


def swapped(a: ScoreTable, b: ScoreTable, groups: Mapping[str, str], n: int, seed: int) -> np.ndarray:
    """Differences in accuracy and macro-F1, the real one first: swap group by group, score, subtract: (n + 1, 2)."""
    rng = np.random.default_rng(seed)
    group, found = np.array([groups[clip] for clip in a.clips]), []
    for number in range(n + 1):
        chosen = [name for name in np.unique(group) if rng.random() < 0.5 and number]
        swap = np.isin(group, chosen)[:, None]
        pair = [replace(x, scores=np.where(swap, y.scores, x.scores)) for x, y in ((a, b), (b, a))]
        found.append(np.subtract(*(mean_scores(each) for each in pair)))
    return np.array(found)


def test_the_value_is_the_mean_over_folds() -> None:
    table = noisy(np.random.default_rng(0), 90, 3, 0.7, n_folds=4)
    intervals = score_intervals(table)
    assert (intervals["accuracy"].value, intervals["macro_f1"].value) == mean_scores(table)


@pytest.mark.parametrize("right", [0, 1, 25, 48, 49, 50])
def test_ungrouped_accuracy_has_clopper_and_pearson_s_interval(right: int) -> None:
    truth = np.arange(50) % 2
    found = score_intervals(recognised(truth, np.where(np.arange(50) < right, truth, 1 - truth), 2))["accuracy"]
    exact = stats.binomtest(right, 50).proportion_ci()
    # The variance of a sample of 50 is that of 49 clips.
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.003)
    assert found.groups == 50


@pytest.mark.parametrize("score", [0, 1])
def test_the_variance_agrees_with_leaving_out_one_group_after_the_other(score: int) -> None:
    rng = np.random.default_rng(5)
    table = noisy(rng, 600, 3, 0.7, n_folds=2)
    groups = {clip: f"{fold}-{rng.integers(30)}" for clip, fold in zip(table.clips, table.folds, strict=True)}
    sample = statistics._Sample(table, [groups[clip] for clip in table.clips])
    assert sample.variance()[score] == pytest.approx(jackknife(table, groups, score), rel=0.1)


@pytest.mark.parametrize(
    ("group_sizes", "folds"),
    [([1], 1), ([5], 1), ([1] * 4, 4), ([10] * 4, 4), ([3, 1, 7], 1), ([1] * 50, 1), ([9] * 8, 2)],
)
@pytest.mark.parametrize("right", ["none", "one", "all but one", "all"])
def test_an_interval_holds_its_value_and_never_has_width_0(group_sizes: list[int], folds: int, right: str) -> None:
    group = np.repeat(np.arange(len(group_sizes)), group_sizes)
    truth = np.arange(len(group)) % 3
    kept = {"none": 0, "one": 1, "all but one": len(group) - 1, "all": len(group)}[right]
    table = recognised(truth, np.where(np.arange(len(group)) < kept, truth, (truth + 1) % 3), 3)
    if folds > 1:
        table = replace(table, folds=tuple(str(1 + number % folds) for number in group))
    for interval in score_intervals(table, dict(zip(table.clips, map(str, group), strict=True))).values():
        assert 0 <= interval.low <= interval.value <= interval.high <= 1
        assert width(interval) > 0.01


def test_a_perfect_score_on_few_groups_counts_groups_and_not_clips() -> None:
    truth = np.arange(400) % 4
    table = recognised(truth, truth, 4)
    by_clip = score_intervals(table)["accuracy"]
    by_group = score_intervals(table, {clip: str(index // 50) for index, clip in enumerate(table.clips)})["accuracy"]
    assert by_clip.low == pytest.approx(0.025 ** (1 / 400))
    assert 0.5 < by_group.low < 0.025 ** (1 / 8)
    assert (by_clip.high, by_group.high) == (1.0, 1.0)


def test_copies_of_a_clip_do_not_make_the_score_surer() -> None:
    single = noisy(np.random.default_rng(11), 80, 4, 0.75)
    copied = recognised(np.repeat(single.truth, 9), np.repeat(single.predicted, 9), 4)
    groups = {clip: f"source {index // 9}" for index, clip in enumerate(copied.clips)}
    for score in ("accuracy", "macro_f1"):
        of_singles, by_group = score_intervals(single)[score], score_intervals(copied, groups)[score]
        by_clip = score_intervals(copied)[score]
        assert width(by_group) == pytest.approx(width(of_singles), rel=0.1)
        assert width(by_clip) == pytest.approx(width(of_singles) / 3, rel=0.1)  # what ignoring groups would claim


def test_neither_order_nor_names_change_an_interval_or_a_test() -> None:
    rng = np.random.default_rng(9)
    one, other = noisy(rng, 60, 3, 0.7, n_folds=2), noisy(rng, 60, 3, 0.6, n_folds=2)
    groups = {clip: f"g{index // 4}" for index, clip in enumerate(one.clips)}
    renamed = {clip: f"source {99 - int(group[1:])}" for clip, group in groups.items()}
    turned = one.reordered(one.clips[::-1])
    for score, interval in score_intervals(turned, renamed).items():
        expected = score_intervals(one, groups)[score]
        assert (interval.low, interval.value, interval.high) == pytest.approx(
            (expected.low, expected.value, expected.high)
        )
    there, turned_there = (
        paired_tests(one, other, groups, n_swaps=300),
        paired_tests(turned, other, renamed, n_swaps=300),
    )
    assert turned_there.macro_f1.p_value == there.macro_f1.p_value
    assert turned_there.accuracy.p_value == there.accuracy.p_value


def test_groups_of_one_clip_are_no_groups() -> None:
    rng = np.random.default_rng(9)
    one, other = noisy(rng, 60, 3, 0.7, n_folds=2), noisy(rng, 60, 3, 0.6, n_folds=2)
    alone = {clip: f"g {clip}" for clip in one.clips}
    assert score_intervals(one, alone) == score_intervals(one)
    assert paired_tests(one, other, alone, n_swaps=200) == paired_tests(one, other, n_swaps=200)


def test_few_groups_are_told_and_enough_are_not() -> None:
    assert few_groups({"devel": 8, "test": 100, "other": None}) == ""
    assert few_groups({"devel": 7, "test": 1}).startswith(
        "Only 7 groups of clips in devel and 1 group of clips in test"
    )


def test_the_chunk_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)
    one, other = noisy(rng, 60, 3, 0.7, n_folds=2), noisy(rng, 60, 3, 0.6, n_folds=2)
    whole = paired_tests(one, other, n_swaps=101)
    monkeypatch.setattr(statistics, "_CHUNK_VALUES", 100)
    assert paired_tests(one, other, n_swaps=101) == whole


def test_a_clip_without_a_group_is_named() -> None:
    table = noisy(np.random.default_rng(9), 10, 3, 0.7)
    groups = dict.fromkeys(table.clips[:-1], "g")
    with pytest.raises(DataError, match=r"'9\.wav' has no group"):
        score_intervals(table, groups)


def test_devel_and_test_clips_are_not_scored_together() -> None:
    table = noisy(np.random.default_rng(9), 10, 3, 0.7)
    mixed = replace(table, folds=("1", *table.folds[1:]))
    with pytest.raises(DataError, match="mixes test clips"):
        score_intervals(mixed)


def test_two_systems_that_say_the_same_do_not_differ_but_are_not_equal_for_sure() -> None:
    table = noisy(np.random.default_rng(1), 100, 4, 0.7, n_folds=4)
    found = paired_tests(table, table, n_swaps=200)
    for each in (found.accuracy, found.macro_f1):
        assert each.interval.value == 0.0
        assert each.interval.low == pytest.approx(-each.interval.high)
        assert 0.01 < each.interval.high < 0.03
        assert each.p_value == 1.0


def test_a_clearly_better_system_is_found_better() -> None:
    rng = np.random.default_rng(1)
    better, worse = noisy(rng, 300, 4, 0.9, n_folds=4), noisy(rng, 300, 4, 0.6, n_folds=4)
    groups = {
        clip: str(index // 8) + fold for index, (clip, fold) in enumerate(zip(better.clips, better.folds, strict=True))
    }
    found = paired_tests(better, worse, groups, n_swaps=1000)
    expected = np.subtract(mean_scores(better), mean_scores(worse))
    for each, value in zip((found.accuracy, found.macro_f1), expected, strict=True):
        assert each.interval.value == pytest.approx(value)
        assert 0.15 < each.interval.low < each.interval.value < each.interval.high < 0.45
        assert each.p_value == pytest.approx(1 / 1001)


def test_swapping_the_systems_turns_the_difference_round() -> None:
    rng = np.random.default_rng(6)
    one, other = noisy(rng, 200, 4, 0.75), noisy(rng, 200, 4, 0.7)
    there, back = paired_tests(one, other).macro_f1, paired_tests(other, one).macro_f1
    assert back.interval.value == pytest.approx(-there.interval.value)
    assert back.interval.low == pytest.approx(-there.interval.high)
    assert back.p_value == pytest.approx(there.p_value, abs=0.03)


def test_pairing_finds_a_difference_that_two_intervals_apart_would_hide() -> None:
    rng = np.random.default_rng(12)
    worse = noisy(rng, 300, 3, 0.7)
    predicted = worse.predicted.copy()
    missed = np.flatnonzero(predicted != worse.truth)[:20]
    predicted[missed] = worse.truth[missed]
    better = recognised(worse.truth, predicted, 3)
    assert score_intervals(better)["macro_f1"].low < score_intervals(worse)["macro_f1"].high
    assert paired_tests(better, worse, n_swaps=1000).macro_f1.interval.low > 0


def test_the_p_values_agree_with_swapping_the_groups_one_by_one() -> None:
    rng = np.random.default_rng(14)
    one, other = noisy(rng, 120, 3, 0.75, n_folds=2), noisy(rng, 120, 3, 0.66, n_folds=2)
    groups = {clip: f"{fold}-{rng.integers(12)}" for clip, fold in zip(one.clips, one.folds, strict=True)}
    sizes = np.abs(swapped(one, other, groups, 1000, seed=3))
    expected = np.mean(sizes >= sizes[0] - 1e-9, axis=0)
    found = paired_tests(one, other, groups, n_swaps=10_000)
    # Two shares of 1,000 and 10,000 draws differ by a deviation of up to 0.017.
    assert (found.accuracy.p_value, found.macro_f1.p_value) == pytest.approx(tuple(expected), abs=0.06)


def test_five_groups_are_too_few_to_call_anything_significant() -> None:
    truth = np.arange(200) % 4
    one, other = recognised(truth, truth, 4), recognised(truth, (truth + 1) % 4, 4)
    groups = {clip: str(index // 40) for index, clip in enumerate(one.clips)}
    # All five signs alike come up in 2 of 32 swaps.
    assert paired_tests(one, other, groups).accuracy.p_value == pytest.approx(2 / 32, abs=0.012)


def test_copied_clips_do_not_make_a_difference_significant() -> None:
    rng = np.random.default_rng(30)
    truth = np.arange(40) % 4
    one, other = noisy(rng, 40, 4, 0.75).predicted, noisy(rng, 40, 4, 0.65).predicted
    a, b = (recognised(np.repeat(truth, 20), np.repeat(found, 20), 4) for found in (one, other))
    groups = {clip: str(index // 20) for index, clip in enumerate(a.clips)}
    by_clip, by_group = paired_tests(a, b, n_swaps=1000), paired_tests(a, b, groups, n_swaps=1000)
    assert max(by_clip.accuracy.p_value, by_clip.macro_f1.p_value) < 0.01
    assert min(by_group.accuracy.p_value, by_group.macro_f1.p_value) > 0.05


def test_the_order_of_the_other_systems_clips_does_not_matter() -> None:
    rng = np.random.default_rng(8)
    one, other = noisy(rng, 100, 4, 0.8), noisy(rng, 100, 4, 0.7)
    assert paired_tests(one, other.reordered(other.clips[::-1]), n_swaps=200) == paired_tests(one, other, n_swaps=200)


def test_systems_on_different_data_are_not_compared() -> None:
    one = noisy(np.random.default_rng(8), 100, 4, 0.8)
    with pytest.raises(MemberError, match="different clips"):
        paired_tests(one, noisy(np.random.default_rng(8), 99, 4, 0.8))
    for changes in (
        {"labels": one.labels[::-1]},
        {"folds": ("1",) * 100},
        {"classes": tuple(sorted([*one.classes[:-1], "class x"])), "labels": one.labels[:1] * 100},
    ):
        with pytest.raises(MemberError, match="differ in their"):
            paired_tests(one, replace(one, **changes))


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
    # The mid-p value counts what was observed half in each tail; with even wins both tails are all there is.
    assert found.mid_p == pytest.approx(1.0 if only_a == only_b else exact - at_edge)


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
