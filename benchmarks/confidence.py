"""Do 95 % intervals hold the true score in 95 % of cases, and are 5 % of equal systems called different?

    python benchmarks/confidence.py [--repeats 600] [--jobs 2]

Simulates tables whose true score is known: five classes, groups of unequal size, the accuracy of each group drawn from
a beta distribution with the given correlation within groups. "before" is what the project did once: percentiles of
300 replicates by group moved to the score, McNemar's test by clips (mid-p), and a bootstrap test of macro-F1. The
true macro-F1 is the mean over the simulated tables. Prints two tables in Markdown; a few minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import _common  # noqa: F401  # isort: skip  puts src on the path
import numpy as np

from soundstack.evaluation.metrics import accuracy, macro_f1
from soundstack.evaluation.score_table import ScoreTable
from soundstack.evaluation.statistics import mcnemar, paired_tests, score_intervals

ACCURACIES = (0.5, 0.8, 0.95, 0.98, 0.99)
BOOT = 300


@dataclass(frozen=True)
class Cell:
    """What is simulated: ``folds`` 1 is a test part; ``correlation`` of two clips of one group being right."""

    clips: int
    groups: int
    folds: int
    correlation: float
    accuracy: float = 0.8
    classes: int = 5
    other: float | None = None  #: the correlation of the second system, where it is another

    @property
    def group(self) -> np.ndarray:
        """The group of each clip: the largest are some eight times the smallest, where there is more than one clip."""
        share = np.cumsum(np.geomspace(1, 8, self.groups) if self.groups < self.clips else np.ones(self.groups))
        spare = self.clips - self.groups  # each group has one clip, these are shared out
        ends = np.arange(1, self.groups + 1) + np.round(spare * share / share[-1]).astype(int)
        return np.searchsorted(ends, np.arange(self.clips), side="right")

    @property
    def fold(self) -> np.ndarray:
        """The fold of each clip, whole groups."""
        return self.group % self.folds

    @property
    def truth(self) -> np.ndarray:
        """The class of each clip."""
        return np.arange(self.clips) // self.folds % self.classes

    def predicted(self, rng: np.random.Generator, correlation: float) -> np.ndarray:
        """What a system of the cell's accuracy recognises."""
        chance = np.full(self.groups, self.accuracy)
        if correlation:
            size = 1 / correlation - 1
            chance = rng.beta(self.accuracy * size, (1 - self.accuracy) * size, self.groups)
        wrong = rng.random(self.clips) >= chance[self.group]
        return (self.truth + wrong * rng.integers(1, self.classes, self.clips)) % self.classes

    def table(self, predicted: np.ndarray) -> ScoreTable:
        """The predictions as a score table."""
        names = tuple(f"{number:02d}" for number in range(self.classes))
        labels = tuple(names[number] for number in self.truth)
        folds = tuple("test" if self.folds == 1 else str(1 + number) for number in self.fold)
        clips = tuple(map(str, range(self.clips)))
        return ScoreTable(clips, labels, folds, np.eye(self.classes)[predicted], names, "decision")

    @property
    def names(self) -> dict[str, str]:
        """The group of each clip by name."""
        return {str(clip): str(number) for clip, number in enumerate(self.group)}


def replicates(cell: Cell, predicted: Sequence[np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and macro-F1 of systems, (S, 2), and of bootstrap replicates by group moved to them: (BOOT, S, 2)."""
    k, scores, drawn = cell.classes, [], []
    for fold in range(cell.folds):
        inside = cell.fold == fold
        _, group = np.unique(cell.group[inside], return_inverse=True)
        n = group.max() + 1
        weights = np.vstack([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), BOOT)])
        parts = []
        for each in predicted:
            cells = np.bincount((group * k + cell.truth[inside]) * k + each[inside], minlength=n * k * k)
            confusions = (weights @ cells.reshape(n, k * k)).reshape(-1, k, k)
            parts.append(np.stack([accuracy(confusions), macro_f1(confusions)], axis=-1))
        scores.append(np.stack(parts, axis=1))
    whole = np.mean(scores, axis=0)
    drawn = whole[1:] - whole[1:].mean(axis=0) + whole[0]
    return whole[0], drawn


def coverage(cell: Cell, repeats: int, seed: int = 0, before: int = 0) -> dict[str, Any]:
    """Share of intervals that hold the true score, by method and score; and the narrowest interval now."""
    rng = np.random.default_rng(seed)
    ends: dict[str, list[np.ndarray]] = {"before": [], "now": []}
    values = []
    for number in range(repeats):
        predicted = cell.predicted(rng, cell.correlation)
        found = score_intervals(cell.table(predicted), cell.names).values()
        values.append([each.value for each in found])
        ends["now"].append(np.array([(each.low, each.high) for each in found]))
        if number < before:
            _, drawn = replicates(cell, [predicted], rng)
            ends["before"].append(np.clip(np.quantile(drawn[:, 0], [0.025, 0.975], axis=0), 0, 1).T)
    true = np.array([cell.accuracy, np.mean(values, axis=0)[1]])
    held = {
        name: np.mean([(each[:, 0] <= true + 1e-9) & (true - 1e-9 <= each[:, 1]) for each in found], axis=0)
        for name, found in ends.items()
        if found
    }
    return held | {"width": min(np.diff(each).min() for each in ends["now"])}


def false_alarms(cell: Cell, repeats: int, seed: int = 0, before: int = 0, n_swaps: int = 400) -> dict[str, Any]:
    """Share of p-values up to 0.05 of two equal systems, by method: accuracy, macro-F1."""
    rng = np.random.default_rng(seed)
    p_values: dict[str, list[tuple[float, float]]] = {"before": [], "now": []}
    for number in range(repeats):
        second = cell.correlation if cell.other is None else cell.other
        a, b = (cell.predicted(rng, correlation) for correlation in (cell.correlation, second))
        tests = paired_tests(cell.table(a), cell.table(b), cell.names, n_swaps=n_swaps, seed=number)
        p_values["now"].append((tests.accuracy.p_value, tests.macro_f1.p_value))
        if number < before:
            _, drawn = replicates(cell, [a, b], rng)
            difference = drawn[:, 0, 1] - drawn[:, 1, 1]
            tail = min(np.sum(difference <= 0), np.sum(difference >= 0))
            p_values["before"].append((mcnemar(cell.truth, a, b).mid_p, 2 * (tail + 1) / (BOOT + 1)))
    return {name: np.mean(np.array(found) <= 0.05, axis=0) for name, found in p_values.items() if found}


#: Clips, groups, folds, correlation.
SHAPES = (
    (50, 50, 1, 0.0), (50, 50, 4, 0.0), (50, 20, 1, 0.3), (50, 20, 4, 0.0), (50, 8, 1, 0.3), (50, 8, 4, 0.3),
    (400, 400, 4, 0.0), (400, 100, 1, 0.2), (400, 100, 4, 0.5), (400, 20, 1, 0.5), (400, 20, 4, 0.2),
    (400, 10, 1, 0.3), (400, 8, 1, 0.0), (400, 8, 1, 0.5), (400, 8, 4, 0.3), (400, 5, 1, 0.3), (400, 3, 1, 0.3),
)  # fmt: skip
COVERAGE = [Cell(*shape, accuracy=right) for shape in SHAPES for right in ACCURACIES]
MANY_CLASSES = [Cell(400, 400, 4, 0.0, accuracy=right, classes=50) for right in ACCURACIES]
PAIRS = [
    Cell(100, 100, 1, 0.0), Cell(400, 400, 4, 0.0), Cell(100, 5, 1, 0.3), Cell(80, 8, 1, 0.3), Cell(320, 8, 1, 0.3),
    Cell(100, 10, 1, 0.3), Cell(400, 10, 1, 0.3), Cell(400, 10, 1, 0.5, 0.95), Cell(400, 20, 4, 0.3),
    Cell(400, 40, 4, 0.3), Cell(1000, 100, 4, 0.3), Cell(400, 10, 1, 0.5, other=0.0), Cell(400, 20, 1, 0.5, other=0.0),
]  # fmt: skip


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _coverage_lines(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    heads = [f"{right:g}" for right in ACCURACIES]
    yield f"| clips, groups, folds, correlation | score | {' | '.join(heads)} |"
    yield f"| :-- | :-- | {' | '.join(['--:'] * len(heads))} |"
    for start in range(0, len(found), len(heads)):
        cell, row = [*COVERAGE, *MANY_CLASSES][start], found[start : start + len(heads)]
        classes = f", {cell.classes} classes" if cell.classes != COVERAGE[0].classes else ""
        for at, name in enumerate(("accuracy", "macro-F1")):
            shown = [f"{_percent(each['before'][at])} → {_percent(each['now'][at])}" for each in row]
            head = f"{cell.clips}, {cell.groups}, {cell.folds}, {cell.correlation:g}{classes}" if not at else ""
            yield f"| {head} | {name} | {' | '.join(shown)} |"


def _test_lines(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "| clips, groups, folds, accuracy, correlation | accuracy | macro-F1 |"
    yield "| :-- | --: | --: |"
    for cell, each in zip(PAIRS, found, strict=True):
        other = "" if cell.other is None else f" and {cell.other:g}"
        shown = [f"{_percent(each['before'][at])} → {_percent(each['now'][at])}" for at in (0, 1)]
        head = f"{cell.clips}, {cell.groups}, {cell.folds}, {cell.accuracy:g}, {cell.correlation:g}{other}"
        yield f"| {head} | {' | '.join(shown)} |"


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=600, help="simulated tables a figure; before: a quarter")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    cells = [*COVERAGE, *MANY_CLASSES]
    with ProcessPoolExecutor(options.jobs) as pool:
        sizes = [options.repeats], [0], [-(-options.repeats // 4)]  # tables, seed, tables judged the former way too
        held = list(pool.map(coverage, cells, *(size * len(cells) for size in sizes)))
        alarms = list(pool.map(false_alarms, PAIRS, *(size * len(PAIRS) for size in sizes)))
    print("Share of 95 % intervals that hold the true score, %, before → now; by true accuracy\n")
    print("\n".join(_coverage_lines(held)))
    enough = [each["now"].min() for cell, each in zip(cells, held, strict=True) if cell.groups >= 8]
    print(f"\nLeast with 8 groups or more: {_percent(min(enough))}. Narrowest: {min(e['width'] for e in held):.4f}.")
    print("\nShare of equal systems with p up to 0.05, %, before → now\n")
    print("\n".join(_test_lines(alarms)))


if __name__ == "__main__":
    main()
