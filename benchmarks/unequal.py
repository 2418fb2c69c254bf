"""What class_weight=balanced is worth where classes are unequal: half of them keep two development clips each.

    python benchmarks/unequal.py --dataset esc10 --data_dir path/to/ESC-50
    python benchmarks/unequal.py --dataset esc10 --data_dir path/to/ESC-50 --tables unequal  # also draw0.csv ... there

Which classes are small, and which two clips, of two folds, they keep is drawn anew each time; the test part stays
whole, so that it judges all classes alike. Features are EfficientNet-Lite0's, C is searched over the folds, and the SVM
is trained with and without weights. Shown are mean scores over the draws, and the mean difference with its standard
error; devel scores are of all folds together, as folds lack small classes. The tables are for `main`, which trains the
CRNN and fusions, too:

    mlflow run . --env-manager local -P dataset=csv -P data_dir=unequal/draw0.csv -P class_weight=balanced
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _common import parser  # isort: skip  (first: makes src importable)

import numpy as np
import torch
from numpy.typing import NDArray

from soundstack.config.steps import DeepSpectrumConfig
from soundstack.datasets.data_set import DataSet
from soundstack.datasets.open_data_set import open_data_set
from soundstack.deepspectrum.extract import extraction
from soundstack.evaluation.metrics import accuracy, confusion_matrix, macro_f1
from soundstack.svm.cost_search import SearchSpec, problem_of, search_cost
from soundstack.utils.folds import TEST

Array = NDArray[Any]
SCORES = ("devel accuracy", "devel macro-F1", "test accuracy", "test macro-F1")


def unequal(targets: Array, folds: Array, seed: int) -> NDArray[np.bool_]:
    """Which of the clips (N,) are kept: all of half the classes; of the others two in development, all of the test."""
    rng, classes = np.random.default_rng(seed), int(targets.max()) + 1
    small = rng.choice(classes, classes // 2, replace=False)
    kept = (folds == TEST) | ~np.isin(targets, small)
    for label in small:
        there = np.unique(folds[(targets == label) & (folds != TEST)])
        for fold in rng.choice(there, 2, replace=False):
            kept[rng.choice(np.flatnonzero((targets == label) & (folds == fold)))] = True
    return kept


def scores(x: Array, y: Array, folds: Array, *, balance: bool) -> list[float]:
    """:data:`SCORES` of the SVM of features x (N, D), class indices y (N,) and folds (N,)."""
    classes, devel, spec = int(y.max()) + 1, folds != TEST, SearchSpec(balance=balance)
    problem = problem_of(x[devel], y[devel], folds[devel], classes, spec)
    found = search_cost(problem.out_of_fold_decisions, y[devel], folds[devel], classes, spec)
    of_test = problem.refit(found.chosen).decision(x[~devel])
    judged = ((y[devel], found.decisions), (y[~devel], of_test))
    confusions = [confusion_matrix(truth, decisions.argmax(axis=1), classes) for truth, decisions in judged]
    return [float(score(confusion)) for confusion in confusions for score in (accuracy, macro_f1)]


def write(data_set: DataSet, kept: NDArray[np.bool_], path: Path) -> None:
    """Write the kept clips as a table of one's own."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "label", "fold", "group"])
        writer.writerows(
            [clip.path.absolute(), clip.label, clip.fold, clip.group]
            for clip, keep in zip(data_set.clips, kept, strict=True)
            if keep
        )


def lines(plain: Array, even: Array) -> Iterator[str]:
    """The table of scores by draw (draws, 4), without and with weights."""
    difference = even - plain
    error = difference.std(axis=0, ddof=1) / np.sqrt(len(difference))
    yield "| score, % | none | balanced | difference |"
    yield "| :-- | --: | --: | --: |"
    for row in zip(SCORES, plain.mean(axis=0), even.mean(axis=0), difference.mean(axis=0), error, strict=True):
        name, *values = row
        before, after, more, sure = (100 * value for value in values)
        yield f"| {name} | {before:.1f} | {after:.1f} | {more:+.1f} ± {sure:.1f} |"


def main() -> None:
    """Measure and print."""
    command = parser(__doc__, draws=(40, "of the small classes and their clips"))
    command.add_argument("--dataset", default="demo")
    command.add_argument("--data_dir", default="auto")
    command.add_argument("--cache_dir", default="cache")
    command.add_argument("--tables", type=Path, help="folder to write the draws' clip tables to")
    given = command.parse_args()
    config = DeepSpectrumConfig(dataset=given.dataset, data_dir=given.data_dir, cache_dir=given.cache_dir)
    begun = extraction(config, torch.device("cpu"))
    data_set = open_data_set(config, begun)
    x, y, folds = begun.finish(data_set).values, data_set.example_targets, data_set.example_folds
    found: dict[bool, list[list[float]]] = {False: [], True: []}
    for seed in range(given.draws):
        kept = unequal(y, folds, seed)
        if given.tables:
            given.tables.mkdir(parents=True, exist_ok=True)
            write(data_set, kept, given.tables / f"draw{seed}.csv")
        for balance, told in found.items():
            told.append(scores(x[kept], y[kept], folds[kept], balance=balance))
    print(f"{given.dataset}, EfficientNet-Lite0 and a linear SVM, {given.draws} draws\n")
    print("\n".join(lines(np.array(found[False]), np.array(found[True]))))


if __name__ == "__main__":
    main()
