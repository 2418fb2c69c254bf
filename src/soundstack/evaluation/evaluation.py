"""What a trained system is judged by: its scores on devel and test, as metrics and as files to look at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstack.evaluation import metrics, plots
from soundstack.evaluation.score_table import ScoreTable
from soundstack.evaluation.statistics import Interval, score_intervals
from soundstack.evaluation.tables import SystemScores
from soundstack.utils.errors import StoreError

#: The four scores that every model is judged by.
SCORES = ("devel_accuracy", "devel_macro_f1", "test_accuracy", "test_macro_f1")


@dataclass(frozen=True)
class Trained:
    """A registered model: name, version, whether it holds the champion alias, and its row in the table.

    ``note`` says which version holds the alias where this one does not, and why.
    """

    name: str
    version: str
    champion: bool
    scores: SystemScores
    note: str = ""


@dataclass(frozen=True)
class Evaluation:
    """Out-of-fold devel scores and test scores of one system, and the groups that intervals go by.

    ``nested`` holds by fold a devel table none of whose scores comes from a model that saw the fold: its own clips as
    the test clips are scored, the others out of fold among themselves. It is empty but where ``nested=yes``.
    ``subsets`` names parts of the test clips that are also scored by themselves: on DCASE 2018 the clips of microphones
    ``known`` from the development set and those of ``unknown`` ones.
    """

    devel: ScoreTable
    test: ScoreTable
    groups: Mapping[str, str]
    devel_probabilities: NDArray[np.float64]
    test_probabilities: NDArray[np.float64]
    subsets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    nested: Mapping[str, ScoreTable] = field(default_factory=dict)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """``devel_accuracy``, ``devel_macro_f1``, ``test_accuracy``, ``test_macro_f1`` with 95 % intervals."""
        return {
            f"{part}_{measure}": interval
            for part, table in (("devel", self.devel), ("test", self.test))
            for measure, interval in score_intervals(table, self.groups).items()
        }

    def metrics(self) -> dict[str, float]:
        """The contract's metrics: every score with ``_ci_low`` and ``_ci_high``, and the groups they rest on."""
        values: dict[str, float] = {}
        for name, interval in self.intervals.items():
            values |= {name: interval.value, f"{name}_ci_low": interval.low, f"{name}_ci_high": interval.high}
        for part in ("devel", "test"):
            values[f"groups_{part}"] = self.intervals[f"{part}_accuracy"].groups or 0
        parts = {
            f"test_{name}": self.test.rows([row for row, clip in enumerate(self.test.clips) if clip in clips])
            for name, clips in self.subsets.items()
        }
        if self.nested:
            parts["devel_nested"] = self._judged()
        for part, table in parts.items():
            for measure, interval in score_intervals(table, self.groups).items():
                key = f"{part}_{measure}"
                values |= {key: interval.value, f"{key}_ci_low": interval.low, f"{key}_ci_high": interval.high}
                values[f"groups_{part}"] = interval.groups or 0
        return values

    def _judged(self) -> ScoreTable:
        """The devel table of nested cross-validation: every clip as judged by what never saw its fold."""
        row_of = {clip: row for row, clip in enumerate(self.devel.clips)}
        scores = np.empty_like(self.devel.scores)
        for fold, table in self.nested.items():
            held_out = table.select(fold)
            scores[[row_of[clip] for clip in held_out.clips]] = held_out.scores
        return replace(self.devel, scores=scores)

    def fold_metrics(self) -> list[tuple[int, dict[str, float]]]:
        """``fold_accuracy`` and ``fold_macro_f1`` with the fold's number as step."""
        return [
            (int(fold.fold), {"fold_accuracy": fold.accuracy, "fold_macro_f1": fold.macro_f1})
            for fold in metrics.fold_scores(self.devel)
        ]

    def row(self, name: str) -> SystemScores:
        """The system's row in a summary table."""
        return SystemScores(name, **self.intervals)

    def write(self, folder: Path, title: str) -> None:
        """Write the contract's artifacts: predictions, confusion matrices, per-class scores, calibration."""
        for fold, table in self.nested.items():
            table.to_parquet(folder / nested_file(fold))
        for part, table, probabilities in (
            ("devel", self.devel, self.devel_probabilities),
            ("test", self.test, self.test_probabilities),
        ):
            confusion = metrics.table_confusion(table)
            table.to_parquet(folder / "predictions" / f"{part}.parquet")
            calibrated = ScoreTable(table.clips, table.labels, table.folds, probabilities, table.classes, "probability")
            calibrated.to_parquet(folder / "predictions" / f"{part}_probability.parquet")
            write_json(
                folder / "confusion" / f"{part}.json",
                {
                    "classes": table.classes,
                    "rows": "truth",
                    "columns": "predicted",
                    "counts": confusion.tolist(),
                },
            )
            figure = plots.confusion_figure(confusion, table.classes, f"{title}, {part}")
            save_figure(figure, folder / "confusion" / f"{part}.png")
            write_json(folder / "per_class" / f"{part}.json", metrics.per_class(confusion, table.classes))
            figure = plots.reliability_figure(probabilities, table.truth)
            save_figure(figure, folder / "calibration" / f"{part}.png")


def nested_file(fold: str) -> str:
    """The artifact with the scores of nested cross-validation that belong to a fold; see :class:`Evaluation`."""
    return f"predictions/nested/{fold}.parquet"


def write_json(path: Path, content: Any) -> None:
    """Write JSON, making the folder where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")


def copy_files(folder: Path, files: Sequence[Path], output: Path) -> None:
    """Copy files, given relative to their folder, to a user's output folder.

    Raises:
        StoreError: It cannot be written.
    """
    try:
        for file in files:
            (output / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file, output / file)
    except OSError as error:
        raise StoreError(
            f"output_dir: {output} cannot be written ({error.strerror or error}); give another folder."
        ) from None


def save_figure(figure: Any, path: Path) -> None:
    """Save a matplotlib figure as PNG, making the folder where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
