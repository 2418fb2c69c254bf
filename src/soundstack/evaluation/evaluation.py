"""What a trained system is judged by: its scores on devel and test, as metrics and as files to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from soundstack.evaluation import metrics, plots
from soundstack.evaluation.calibration import probabilities
from soundstack.evaluation.score_table import ScoreTable
from soundstack.evaluation.statistics import Interval, score_intervals
from soundstack.evaluation.tables import SystemScores
from soundstack.utils.files import save_figure, write_json

if TYPE_CHECKING:
    from soundstack.evaluation.none_of_these import NoneScores

#: The four scores that every model is judged by.
SCORES = ("devel_accuracy", "devel_macro_f1", "test_accuracy", "test_macro_f1")


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model: name, version, whether it holds the champion alias, and its row in the table.

    ``note`` says which version holds the alias where this one does not, and why; ``restriction``, what licences of
    weights restrict its use to.
    """

    name: str
    version: str
    champion: bool
    scores: SystemScores
    note: str = ""
    restriction: str = ""


@dataclass(frozen=True)
class Evaluation:
    """Out-of-fold devel scores and test scores of one system, the groups that intervals go by, and the calibration.

    ``nested`` holds by fold a devel table none of whose scores comes from a model that saw the fold: its own clips as
    the test clips are scored, the others out of fold among themselves. It is empty but where ``nested=yes``.
    ``subsets`` names parts of the test clips that are also scored by themselves: on DCASE 2018 the clips of microphones
    ``known`` from the development set and those of ``unknown`` ones. ``none`` tells how well clips of no class are told
    from others, where the recogniser may answer so.
    """

    devel: ScoreTable
    test: ScoreTable
    groups: Mapping[str, str]
    inverse_temperature: float
    subsets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    nested: Mapping[str, ScoreTable] = field(default_factory=dict)
    none: NoneScores | None = None

    @cached_property
    def tables(self) -> dict[str, ScoreTable]:
        """What is scored: ``devel`` and ``test``, where there are any ``test_<subset>`` and ``devel_nested``."""
        tables = {"devel": self.devel, "test": self.test}
        for name, clips in self.subsets.items():
            rows = [row for row, clip in enumerate(self.test.clips) if clip in clips]
            tables[f"test_{name}"] = self.test.rows(rows)
        if self.nested:
            scores_of: dict[str, NDArray[np.float64]] = {}  # by clip, from what never saw its fold
            for fold, table in self.nested.items():
                held_out = table.select(fold)
                scores_of |= dict(zip(held_out.clips, held_out.scores, strict=True))
            tables["devel_nested"] = replace(
                self.devel, scores=np.stack([scores_of[clip] for clip in self.devel.clips])
            )
        return tables

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Accuracy and macro-F1 of all tables with 95 % intervals: ``devel_accuracy``, ``devel_macro_f1``, ..."""
        return {
            f"{part}_{measure}": interval
            for part, table in self.tables.items()
            for measure, interval in score_intervals(table, self.groups).items()
        }

    def metrics(self) -> dict[str, float]:
        """The contract's metrics: every score with ``_ci_low`` and ``_ci_high``, and the groups they rest on."""
        values: dict[str, float] = {}
        for name, interval in self.intervals.items():
            values |= {name: interval.value, f"{name}_ci_low": interval.low, f"{name}_ci_high": interval.high}
        if self.none is not None:
            values |= self.none.metrics()
        return values | {f"groups_{part}": self.intervals[f"{part}_accuracy"].groups or 0 for part in self.tables}

    def fold_metrics(self) -> list[tuple[int, dict[str, float]]]:
        """``fold_accuracy`` and ``fold_macro_f1`` with the fold's number as step."""
        return [
            (int(fold.fold), {"fold_accuracy": fold.accuracy, "fold_macro_f1": fold.macro_f1})
            for fold in metrics.fold_scores(self.devel)
        ]

    def row(self, name: str) -> SystemScores:
        """The system's row in a summary table."""
        return SystemScores(name, **{score: self.intervals[score] for score in SCORES})

    def write(self, folder: Path, title: str) -> None:
        """Write the contract's artifacts: predictions, confusion matrices, per-class scores, calibration."""
        for fold, table in self.nested.items():
            table.to_parquet(folder / nested_file(fold))
        if self.none is not None:
            self.none.write(folder)
        for part, table in (("devel", self.devel), ("test", self.test)):
            shares = probabilities(table.scores, table.kind, self.inverse_temperature)
            table.to_parquet(folder / "predictions" / f"{part}.parquet")
            calibrated = replace(table, scores=shares, kind="probability")
            calibrated.to_parquet(folder / "predictions" / f"{part}_probability.parquet")
            confusion = metrics.table_confusion(table)
            counted = {"classes": table.classes, "rows": "truth", "columns": "predicted", "counts": confusion.tolist()}
            write_json(folder / "confusion" / f"{part}.json", counted)
            figure = plots.confusion_figure(confusion, table.classes, f"{title}, {part}")
            save_figure(figure, folder / "confusion" / f"{part}.png")
            write_json(folder / "per_class" / f"{part}.json", metrics.per_class(confusion, table.classes))
            figure = plots.reliability_figure(shares, table.truth)
            save_figure(figure, folder / "calibration" / f"{part}.png")


def nested_file(fold: str) -> str:
    """The artifact with the scores of nested cross-validation that belong to a fold; see :class:`Evaluation`."""
    return f"predictions/nested/{fold}.parquet"
