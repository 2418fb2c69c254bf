"""How sure a score is: intervals by group, and paired tests by group between two systems.

Clips of one group (a recording, a session) resemble each other: groups, not clips, are what was drawn at random.

Intervals. Accuracy and macro-F1 are smooth functions of counts. Their variance is that of the groups' summed
influences within each fold (Taylor linearisation, the survey statistician's "ultimate clusters"; the devel score is a
mean over folds, so folds are strata). Its ratio to the variance of as many independent clips is the design effect; it
turns the clips into an effective number of clips, and the interval is Clopper and Pearson's for that number, with t
for the degrees of freedom, groups less folds (Korn and Graubard 1998, Survey Methodology 24). A design effect can only
be seen in groups that show both outcomes, so an estimate from few such groups is too small too often, and that of a
perfect score is none (Franco et al. 2019, J. Survey Statistics and Methodology 7). Seen in k groups, it is averaged
with the greatest there can be (all clips of a group right, or none), with weights k and 1: a perfect score counts
groups as clips. Without groups, all this is Clopper and Pearson's interval but for a rounding.

Tests. Were two systems equal, swapping their predictions on all clips of a group would change nothing: p is how often
random swaps of whole groups make a difference as large (Yeh 2000, COLING). `benchmarks/confidence.py` simulates both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse import csr_array
from scipy.stats import beta, binom, t

from soundstack.evaluation.metrics import accuracy, check_one_split, fold_scores, macro_f1
from soundstack.evaluation.score_table import ScoreTable
from soundstack.utils.errors import DataError, MemberError

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Groups = Mapping[str, str]

#: With fewer, an interval is only the best that can be had: what says so is `few_groups`.
ENOUGH_GROUPS = 8
_LEVEL = 0.95
_TINY = 1e-12  # a beta distribution's parameters are positive
_CHUNK_VALUES = 4_000_000  # float64 held at once while swaps are scored: 32 MB


@dataclass(frozen=True)
class Interval:
    """A score with its confidence interval, and the number of groups that it rests on, where that is known."""

    value: float
    low: float
    high: float
    groups: int | None = None


class PairedDifference(NamedTuple):
    """Score of A minus score of B, its interval, and the two-sided p-value of "no difference"."""

    interval: Interval
    p_value: float


class PairedTests(NamedTuple):
    """Two systems on the same clips, A minus B, and the clips that only A or only B recognises."""

    accuracy: PairedDifference
    macro_f1: PairedDifference
    only_a: int
    only_b: int


class McNemar(NamedTuple):
    """Clips that only A or only B recognises, and the two-sided mid-p value of "both equally often"."""

    only_a: int
    only_b: int
    mid_p: float


def score_intervals(table: ScoreTable, groups: Groups | None = None) -> dict[str, Interval]:
    """95 % intervals of a devel or a test table, for ``"accuracy"`` and ``"macro_f1"``; never of width 0.

    ``groups`` maps a clip to its group; without it every clip is its own group. Nothing is random.

    Raises:
        DataError: if the table mixes devel and test clips, or ``groups`` lacks a clip.
    """
    return _Sample(table, _group_names(table, groups)).intervals()


def intervals_over_draws(tables: Sequence[ScoreTable], groups: Groups | None = None) -> dict[str, Interval]:
    """95 % intervals of mean scores over models on the same test clips, each trained on another draw of clips.

    They tell of other draws and of other test clips: to the variance that `score_intervals` finds for the mean of the
    models comes that of the scores over the draws, divided by their number; t has the degrees of freedom of the sum
    (Satterthwaite 1946). What chance makes of a clip in one draw alone counts in both: they are rather too wide.

    Raises:
        DataError: as in `score_intervals`.
    """
    return _Draws(tables, _group_names(tables[0], groups)).intervals()


def few_groups(groups: Mapping[str, float | None]) -> str:
    """What a reader must know of intervals that rest on few groups, by what they are of; empty where none does.

    >>> few_groups({"devel": 300, "test": 5})
    'Only 5 groups of clips in test: with fewer than 8, its intervals are wide and no more than approximate.'
    """
    few = {name: int(count) for name, count in groups.items() if count and count < ENOUGH_GROUPS}
    if not few:
        return ""
    counts = " and ".join(f"{count} group{'s' * (count > 1)} of clips in {name}" for name, count in few.items())
    whose = "its" if len(few) == 1 else "their"
    return f"Only {counts}: with fewer than {ENOUGH_GROUPS}, {whose} intervals are wide and no more than approximate."


def paired_tests(
    table_a: ScoreTable, table_b: ScoreTable, groups: Groups | None = None, *, n_swaps: int = 10_000, seed: int = 0
) -> PairedTests:
    """Is the difference of two systems on the same clips, A minus B, more than chance?

    Each random swap exchanges the two systems' predictions on half of the groups; p is the share of swaps whose
    difference is at least as large in size, the real one counted in, so that it is never 0. Where each clip is its own
    group, that is McNemar's test for accuracy, and its mid-p value is taken.

    The intervals are of the linearised difference, with t as in `score_intervals`; one group's weight of disagreement
    is added to the variance (after Agresti and Min 2005), so that two systems alike on few clips are not said to be
    equal for sure.

    Raises:
        MemberError: if the tables differ in clips, labels, folds or classes.
        DataError: as in `score_intervals`.
    """
    table_b = table_b.reordered(table_a.clips)
    for name in ("classes", "labels", "folds"):
        if getattr(table_a, name) != getattr(table_b, name):
            raise MemberError(f"The score tables differ in their {name}: compare models of one data set.")
    names = _group_names(table_a, groups)
    a, b = _Sample(table_a, names), _Sample(table_b, names)
    p_values = _swap_p(a, b, n_swaps, seed).tolist()
    mcnemars = mcnemar(table_a.truth, table_a.predicted, table_b.predicted)
    if a.n_groups == len(table_a.clips):
        p_values[0] = mcnemars.mid_p
    values = a.values - b.values
    variance = a.variance(b) + (a.group_weights**2).sum(axis=0) ** 2
    margins = t.ppf((1 + _LEVEL) / 2, max(a.freedom, 1)) * np.sqrt(variance)
    ends = np.stack([values, np.maximum(values - margins, -1.0), np.minimum(values + margins, 1.0)], axis=1).tolist()
    for_accuracy, for_macro_f1 = (
        PairedDifference(Interval(value, low, high, a.n_groups), p)
        for (value, low, high), p in zip(ends, p_values, strict=True)
    )
    return PairedTests(for_accuracy, for_macro_f1, mcnemars.only_a, mcnemars.only_b)


def mcnemar(truth: ArrayLike, predicted_a: ArrayLike, predicted_b: ArrayLike) -> McNemar:
    """Mid-p McNemar test of two systems' accuracy on the same clips (Fagerland et al. 2013).

    Of the n clips that only one system recognises, each falls to A or B with probability 1/2 if both are
    equally good. The exact p is min(1, 2 P(X <= min)); mid-p takes P(X = min) once less, which cures the exact
    test's caution. Clips count as independent: with groups of alike clips, `paired_tests` swaps whole groups.

    Args:
        truth, predicted_a, predicted_b: class indices: (N,)

    >>> test = mcnemar([0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0])
    >>> test.only_a, test.only_b, round(test.mid_p, 5)
    (5, 0, 0.03125)
    """
    right_a, right_b = (np.equal(truth, predicted) for predicted in (predicted_a, predicted_b))
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
    fewer, discordant = min(only_a, only_b), only_a + only_b
    mid_p = 2 * float(binom.cdf(fewer, discordant, 0.5)) - float(binom.pmf(fewer, discordant, 0.5))
    return McNemar(only_a, only_b, min(1.0, mid_p))


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down correction of m p-values, in their order: (m,) -> (m,) in 0..1 (Holm 1979).

    The k-th smallest is multiplied by m - k + 1 and never falls below the one before: the chance of any false
    alarm among the m comparisons stays below the level.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def _group_names(table: ScoreTable, groups: Groups | None) -> Sequence[str]:
    if groups is None:
        return table.clips
    missing = next((clip for clip in table.clips if clip not in groups), None)
    if missing is not None:
        raise DataError(f"Clip {missing!r} has no group: give every clip of the score table one, or none.")
    return [groups[clip] for clip in table.clips]


class _Sample:
    """A table as a sample of groups within folds.

    Attributes:
        values: accuracy and macro-F1, means over folds: (2,)
        group, fold_of_group: the group of each clip (N,), and the fold of each group (G,)
        influence: what each group adds to the two scores, from 0, to first order: (G, 2)
        clip_weights, group_weights: the shares of each clip (N, 2) and group (G, 2) in the two scores; macro-F1 gives
            the same share to each class
        freedom: degrees of freedom of the variance
    """

    def __init__(self, table: ScoreTable, groups: Sequence[str]) -> None:
        check_one_split(table)
        self.table = table
        folds = {name: number for number, name in enumerate(table.fold_names)}
        fold = np.array([folds[name] for name in table.folds])
        _, number = np.unique(np.asarray(groups), return_inverse=True)
        self.keys, self.group = np.unique(fold * (number.max() + 1) + number, return_inverse=True)
        self.fold_of_group = self.keys // (number.max() + 1)
        self.n_groups = len(self.keys)
        self.groups_of_fold = np.bincount(self.fold_of_group, minlength=len(folds))
        scores = np.array([each[1:] for each in fold_scores(table)])  # (F, 2)
        self.values = scores.mean(axis=0)
        self.right = table.truth == table.predicted
        influence, self.clip_weights = np.zeros((2, len(fold), 2))
        for at in folds.values():
            inside = fold == at
            parts = _influence(table.truth[inside], table.predicted[inside], len(table.classes))
            influence[inside], self.clip_weights[inside] = (part / len(folds) for part in parts)
        self.influence, self.group_weights = self._by_group(influence), self._by_group(self.clip_weights)
        # A group alone in its fold shows nothing inside it: such folds are compared with all others instead.
        alone = self.groups_of_fold[self.fold_of_group] == 1
        self.influence[alone] = ((scores - self.values) / len(folds))[self.fold_of_group[alone]]
        several = self.groups_of_fold > 1
        self.freedom = int((self.groups_of_fold[several] - 1).sum() + max((~several).sum() - 1, 0))

    def _by_group(self, values: Floats) -> Floats:
        """Sums over the clips of each group: (N, 2) -> (G, 2)."""
        return np.stack([np.bincount(self.group, column, self.n_groups) for column in values.T], axis=1)

    def variance(self, other: _Sample | None = None) -> Floats:
        """Variance of the two scores, or of their differences from those of another system: (2,)."""
        influence = self.influence - other.influence if other else self.influence
        size = self.groups_of_fold[self.fold_of_group]
        return (size / np.maximum(size - 1, 1)) @ influence**2

    def intervals(self) -> dict[str, Interval]:
        """The two scores by name."""
        ends = np.stack([self.values, *self.ends()], axis=1).tolist()
        found = (Interval(value, low, high, self.n_groups) for value, low, high in ends)
        return dict(zip(("accuracy", "macro_f1"), found, strict=True))

    def ends(self) -> tuple[Floats, Floats]:
        """Lower and upper ends of the scores' intervals: (2,) each."""
        clips, groups = 1 / (self.clip_weights**2).sum(axis=0), 1 / (self.group_weights**2).sum(axis=0)
        independent = self.values * (1 - self.values) / clips
        seen = np.divide(self.variance(), independent, out=np.ones(2), where=independent > 0)
        # Where a class has one group in a fold, F1 hides how that group might have turned out; accuracy does not.
        seen = np.maximum.accumulate(np.maximum(seen, 1.0))
        some_right, some_wrong = (np.unique(self.group[each]).size for each in (self.right, ~self.right))
        k = min(some_right, some_wrong, self.freedom)
        design_effect = (k * seen + np.maximum(seen, clips / groups)) / (k + 1)
        tail = (1 - _LEVEL) / 2
        known, unknown = (t.ppf(tail, max(df, 1)) for df in (len(self.group) - 1, self.freedom))
        effective = clips / design_effect * (known / unknown) ** 2
        right, wrong = self.values * effective, (1 - self.values) * effective
        lows = np.where(self.values > 0, beta.ppf(tail, np.maximum(right, _TINY), wrong + 1), 0.0)
        highs = np.where(self.values < 1, beta.ppf(1 - tail, right + 1, np.maximum(wrong, _TINY)), 1.0)
        return np.minimum(lows, self.values), np.maximum(highs, self.values)


class _Draws(_Sample):
    """The mean of several models on one sample of test clips, as a sample of groups and of draws."""

    def __init__(self, tables: Sequence[ScoreTable], groups: Sequence[str]) -> None:
        super().__init__(tables[0], groups)
        samples = [_Sample(table.reordered(tables[0].clips), groups) for table in tables]
        values = np.stack([each.values for each in samples])  # (D, 2)
        self.values, self.influence = values.mean(axis=0), np.mean([each.influence for each in samples], axis=0)
        self.right = np.mean([each.right for each in samples], axis=0) > 0.5
        self.between = values.var(axis=0, ddof=1) / len(tables)
        parts = np.array([super().variance()[0], self.between[0]])
        if total := parts.sum():
            self.freedom = int(total**2 / (parts**2 / [max(self.freedom, 1), len(tables) - 1]).sum())

    def variance(self, other: _Sample | None = None) -> Floats:
        """See :class:`_Sample`; other draws count, too."""
        return super().variance(other) + self.between


def _influence(truth: Indices, predicted: Indices, n_classes: int) -> tuple[Floats, Floats]:
    """What each clip of a fold adds to accuracy and macro-F1 to first order, and its share in them: (N, 2) each.

    F1 of a class is 2 hits / (true + predicted): its derivative by the counts, summed over the classes that occur.
    """
    true, found = (np.bincount(each, minlength=n_classes) for each in (truth, predicted))
    right, both = truth == predicted, true + found
    hits = np.bincount(truth[right], minlength=n_classes)
    f1 = np.divide(2 * hits, both, out=np.zeros(n_classes), where=both > 0)
    gain = 2 * right / both[truth] - f1[truth] / both[truth] - f1[predicted] / both[predicted]
    shares = np.stack([np.full(len(truth), 1 / len(truth)), 1 / (np.count_nonzero(true) * true[truth])], axis=1)
    influence = np.stack([(right - right.mean()) / len(truth), gain / np.count_nonzero(both)], axis=1)
    return influence, shares


def _swap_p(a: _Sample, b: _Sample, n_swaps: int, seed: int) -> Floats:
    """Two-sided p-values of the differences in accuracy and macro-F1 when whole groups are swapped: (2,)."""
    rng = np.random.default_rng(seed)
    n_classes, n_folds = len(a.table.classes), len(a.groups_of_fold)
    n_cells = n_classes**2
    cells = np.stack(
        [a.table.truth * n_classes + x.table.predicted + n_cells * i for i, x in enumerate((a, b))], axis=1
    )
    differences = np.zeros((n_swaps + 1, 2))
    for fold in range(n_folds):
        inside = a.fold_of_group[a.group] == fold
        outcomes, groups_of_kind = _kinds(cells[inside], a.group[inside], 2 * n_cells)
        of_a, of_b = outcomes[:, :n_cells], outcomes[:, n_cells:]
        total = np.concatenate([groups_of_kind @ of_a, groups_of_kind @ of_b])
        change = sparse.hstack([of_b - of_a, of_a - of_b], format="csr")
        chunk = max(1, _CHUNK_VALUES // sum(outcomes.shape))
        for start in range(0, n_swaps + 1, chunk):
            swaps = rng.binomial(groups_of_kind, 0.5, size=(min(chunk, n_swaps + 1 - start), len(groups_of_kind)))
            if start == 0:
                swaps[0] = 0  # as it is
            confusions = (total + swaps @ change).reshape(-1, 2, n_classes, n_classes)
            scores = np.stack([accuracy(confusions), macro_f1(confusions)], axis=2)  # (b, 2 systems, 2 scores)
            differences[start : start + len(swaps)] += (scores[:, 0] - scores[:, 1]) / n_folds
    size = np.abs(differences)
    return np.mean(size >= size[0] - 1e-12, axis=0)  # equal but for rounding counts as equal


def _kinds(cells: Indices, group: Indices, n_cells: int) -> tuple[csr_array, Indices]:
    """The outcomes that occur, as counts (kinds, n_cells), and how many groups have each: (kinds,).

    Groups with the same counts are interchangeable: one draw a kind instead of one a group is the same
    distribution, and 73,000 single clips with 9 classes have at most 729 kinds.
    """
    group = np.repeat(group, cells.shape[1])
    flat = cells.reshape(-1)
    order = np.lexsort((flat, group))
    starts = np.flatnonzero(np.diff(group[order])) + 1
    kinds = Counter(part.tobytes() for part in np.split(flat[order], starts))
    # Sorted, so that neither the order of the clips nor the names of the groups change the draw.
    outcomes = [np.frombuffer(kind, dtype=flat.dtype) for kind in sorted(kinds)]
    columns = np.concatenate(outcomes)
    ends = np.cumsum([0, *map(len, outcomes)])
    counts = csr_array((np.ones(len(columns)), columns, ends), shape=(len(outcomes), n_cells))
    return counts, np.array([kinds[kind] for kind in sorted(kinds)])
