"""Time the SVM path against scikit-learn's LinearSVC: same folds, same costs, same classes, in one process.

    python benchmarks/svm_path.py                      # all three sizes; LinearSVC takes an hour or more
    python benchmarks/svm_path.py --size small         # ESC-10's size: seconds
    python benchmarks/svm_path.py --folds 1            # both hold out the first fold only
    python benchmarks/svm_path.py --size small --balanced  # unequal classes, all of which count alike
    python benchmarks/svm_path.py --quick              # a tenth of the clips of the larger sizes, one run: minutes

Both sides standardise (bounded) on the training folds, train at the ten costs 1e-9 ... 1, and score the held-out fold;
all of that is timed, on the clock and in processor time, which other work on the machine disturbs less. LinearSVC
(``dual=True``, as the method has it) runs on one core, as it always does; the Newton path solves folds side by side on
the threads that BLAS has (set OMP_NUM_THREADS=1 to compare core with core). The median run counts; LinearSVC's run on
the larger sizes is not repeated.

Where they stand against the optimum is measured apart, and not timed: a dual feasible point of the Newton solution
bounds the optimum from below, and "gap" is the largest relative distance of an objective from that bound, over folds,
costs and classes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from _common import Row, parser, show  # isort: skip  (first: makes src importable)

import numpy as np
from numpy.typing import NDArray
from sklearn.svm import LinearSVC
from sklearn.utils.class_weight import compute_sample_weight

import _plain
from soundstack.config.steps import PAPER_COSTS
from soundstack.svm.linear_svm import PathProblem, Standardiser, SvmPath
from soundstack.utils.devices import keep_pages

Array = NDArray[Any]

COSTS = list(PAPER_COSTS)
FOLDS = 4


@dataclass(frozen=True)
class Size:
    """A data set's shape, and how far its classes lie apart in latent deviations: F1 is 0.76 to 0.96."""

    clips: int
    dimensions: int
    classes: int
    separation: float


SIZES = {
    "small": Size(320, 1280, 10, 0.42),  # ESC-10, EfficientNet-Lite0
    "medium": Size(2000, 4096, 50, 0.6),  # ESC-50, VGG16
    "large": Size(15000, 1024, 9, 0.35),  # a fifth of DCASE 2018's segments, DenseNet121
}

TARGETS = {"small": 20.0, "medium": 8.0, "large": 5.0}


def deep_features(size: Size, seed: int, *, unequal: bool = False) -> tuple[Array, Array]:
    """Features like those of a CNN: rectified, correlated, of quickly falling spectrum, one in five nearly always 0."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, size.classes, size.clips)
    if unequal:  # the largest class is ten times the smallest
        share = np.linspace(10, 1, size.classes)
        y = rng.choice(size.classes, size.clips, p=share / share.sum())
    deviation = 1 / np.sqrt(1 + np.arange(96.0))
    centres = rng.normal(size=(size.classes, 96)) * deviation * size.separation
    latent = (centres[y] + rng.normal(size=(size.clips, 96)) * deviation) / np.linalg.norm(deviation)
    asleep = rng.random(size.dimensions) < 0.2
    bias = np.where(asleep, -2.8, rng.normal(-0.3, 0.5, size.dimensions))
    x = latent @ rng.normal(size=(96, size.dimensions)) + bias
    x += 0.3 * rng.normal(size=x.shape)
    x = np.maximum(x, 0) * np.exp(rng.normal(0, 0.7, size.dimensions))
    return x.astype(np.float32), y


def objectives(
    coef: Array, intercept: Array, x: Array, sign: Array, cost: float, weights: Array
) -> tuple[Array, Array]:
    """P of every class (K,), and the value of the dual at the point that belongs to it, with weights (N,) of clips."""
    slack = np.maximum(0, 1 - sign * (x @ coef.T + intercept))
    alpha = 2 * cost * weights[:, None] * slack
    primal = 0.5 * ((coef**2).sum(axis=1) + intercept**2) + cost * (weights @ slack**2)
    pull = (alpha * sign).T @ x
    dual = alpha.sum(axis=0) - 0.5 * ((pull**2).sum(axis=1) + (alpha * sign).sum(axis=0) ** 2)
    return primal, dual - (1 / weights) @ alpha**2 / (4 * cost)


def timed(run: Callable[[], Any], repeats: int) -> tuple[float, float, Any]:
    """Median seconds on the clock and of all processors, and the last result."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        result = run()
        seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    clock, processor = np.median(seconds, axis=0)
    return float(clock), float(processor), result


def compare(name: str, size: Size, folds: int, repeats: int, seed: int, *, balance: bool) -> Row:
    """One row of the table."""
    x, y = deep_features(size, seed, unequal=balance)
    fold = np.arange(len(y)) % FOLDS
    held_out = [fold == number for number in range(folds)]

    def newton() -> Array:
        problem = PathProblem(x, y, fold, n_classes=size.classes, balance=balance)
        problem.folds = problem.folds[:folds]
        return problem.out_of_fold_decisions(COSTS)

    def weights_of(rows: Array) -> Array | None:
        return compute_sample_weight("balanced", y[rows]) if balance else None

    models: dict[tuple[int, float], LinearSVC] = {}

    def liblinear() -> Array:
        decisions = np.zeros((len(COSTS), len(y), size.classes))
        for number, rows in enumerate(held_out):
            standardiser = Standardiser.fit(x[~rows])
            train, rest = standardiser.transform(x[~rows]), standardiser.transform(x[rows])
            for index, cost in enumerate(COSTS):
                print(f"  {name}: LinearSVC, fold {number + 1}, C = {cost:g}   ", end="\r", file=sys.stderr)
                models[number, cost] = _plain.linear_svc(train, y[~rows], cost, weights_of(~rows))
                decisions[index, rows] = models[number, cost].decision_function(rest)
        return decisions

    our_clock, our_processor, our_decisions = timed(newton, repeats)
    their_clock, their_processor, their_decisions = timed(liblinear, repeats if size.clips < 1000 else 1)
    our_gap, their_gap = 0.0, 0.0
    for number, rows in enumerate(held_out):
        train = Standardiser.fit(x[~rows]).transform(x[~rows])
        sign = np.where(y[~rows][:, None] == np.arange(size.classes), 1.0, -1.0)
        weights = weights_of(~rows)
        path = SvmPath(train, y[~rows], n_classes=size.classes, weights=weights)
        counted = np.ones(len(train)) if weights is None else weights
        for cost in COSTS:
            primal, dual = objectives(*path.coefficients(cost), train, sign, cost, counted)
            other = models[number, cost]
            reference, _ = objectives(other.coef_, other.intercept_, train, sign, cost, counted)
            our_gap = max(our_gap, float((primal / dual - 1).max()))
            their_gap = max(their_gap, float((reference / dual - 1).max()))
    (ours, our_score), (theirs, their_score) = (
        _plain.best_cost(decisions, y, held_out) for decisions in (our_decisions, their_decisions)
    )
    shape = f"n={len(y)}, d={size.dimensions}, {size.classes} classes"
    return Row(
        f"SVM path{', balanced' if balance else ''}, {shape}, {folds} folds held out",
        "scikit-learn LinearSVC (dual=True)",
        "s",
        their_clock,
        our_clock,
        their_clock / our_clock,
        their_processor / our_processor,
        TARGETS[name],
        f"objective at most {our_gap:.1e} above the optimum (LinearSVC: {their_gap:.1e}), "
        f"{'same' if theirs == ours else 'ANOTHER'} C chosen",
        f"C, macro-F1: LinearSVC {COSTS[theirs]:.0e}, {their_score:.4f}; ours {COSTS[ours]:.0e}, {our_score:.4f}",
    )


def rows(names: list[str], folds: int, repeats: int, seed: int, *, quick: bool, balance: bool = False) -> Iterator[Row]:
    """Measure."""
    keep_pages()  # as every entry point does
    for name in names:
        size = SIZES[name]
        if quick:
            size, repeats = replace(size, clips=max(320, size.clips // 10)), 1
        yield compare(name, size, folds, repeats, seed, balance=balance)


if __name__ == "__main__":
    command = parser(__doc__, repeats=(5, "runs of which the median counts"), seed=(0, "of the features"))
    command.add_argument("--size", choices=SIZES, action="append", help="may be given several times; default: all")
    command.add_argument("--folds", type=int, choices=range(1, FOLDS + 1), default=FOLDS, help="held out, of the four")
    command.add_argument("--quick", action="store_true", help="a tenth of the clips of the larger sizes, one run")
    command.add_argument("--balanced", action="store_true", help="classes of unequal size, weighted to count alike")
    given = command.parse_args()
    chosen = given.size or list(SIZES)
    found = rows(chosen, given.folds, given.repeats, given.seed, quick=given.quick, balance=given.balanced)
    show(found, given.json)
