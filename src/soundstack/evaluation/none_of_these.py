"""How well "none of these" is told from the classes: the rule from out-of-fold scores, its measures and its curve."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from soundstack.evaluation import plots
from soundstack.evaluation.calibration import fit_inverse_temperature, probabilities
from soundstack.evaluation.none_rule import NONE, Floats, NoneRule
from soundstack.evaluation.score_table import ScoreTable
from soundstack.utils.files import replaced, save_figure


@dataclass(frozen=True, eq=False)
class NoneScores:
    """The rule, and the none scores of the tables of development clips, out of fold, and of test clips: (N,) each."""

    rule: NoneRule
    tables: tuple[ScoreTable, ScoreTable]
    scores: tuple[Floats, Floats]

    @cached_property
    def parts(self) -> dict[str, tuple[NDArray[np.bool_], Floats]]:
        """By part, which clips are negatives, and the none scores."""
        named = zip(("devel", "test"), self.tables, self.scores, strict=True)
        return {part: (np.array(table.labels) == NONE, scores) for part, table, scores in named}

    def metrics(self) -> dict[str, float]:
        """By part, the share of known clips ``missed`` (answered none); where there are negatives, the share of
        ``false_alarms`` (taken for a class) and ``none_auroc``, the area under the curve of the none score.
        """
        values: dict[str, float] = {}
        for part, (negative, scores) in self.parts.items():
            refused = scores >= self.rule.threshold
            if not negative.all():
                values[f"{part}_missed"] = float(refused[~negative].mean())
            if negative.any():
                values[f"{part}_false_alarms"] = float(1 - refused[negative].mean())
            if negative.any() and not negative.all():
                values[f"{part}_none_auroc"] = float(roc_auc_score(negative, scores))
        return values

    def write(self, folder: Path) -> None:
        """Write the none scores and, where there are negatives, the curve of false alarms against misses."""
        for table, (part, (_, scores)) in zip(self.tables, self.parts.items(), strict=True):
            columns = {"clip": table.clips, "label": table.labels, "fold": table.folds, "none_score": scores}
            with replaced(folder / scores_file(part)) as file:
                pq.write_table(pa.table(columns), file)
        curves = {}
        for part, (negative, scores) in self.parts.items():
            if negative.any() and not negative.all():
                missed, found, thresholds = roc_curve(negative, scores, drop_intermediate=False)
                curves[part] = (thresholds, 1 - found, missed)
        if curves:
            save_figure(plots.none_figure(curves, self.rule.threshold), folder / "none" / "curve.png")


def scores_file(part: str) -> str:
    """The artifact with the none scores of a part."""
    return f"predictions/none/{part}.parquet"


def read_scores(path: Path, table: ScoreTable) -> Floats:
    """Read none scores (N,) in the order of a table's clips.

    Raises:
        KeyError: They lack one of its clips.
    """
    with pq.ParquetFile(path) as file:
        columns = file.read(["clip", "none_score"]).to_pydict()
    of_clip = dict(zip(columns["clip"], columns["none_score"], strict=True))
    return np.array([of_clip[clip] for clip in table.clips], dtype=np.float64)


def none_scores(
    devel: ScoreTable,
    test: ScoreTable,
    rate: float,
    inverse_temperature: float,
    distances: tuple[Floats, Floats] | None = None,
) -> NoneScores:
    """Find the rule from out-of-fold development scores alone, and score both parts.

    Args:
        devel: Scored out of fold.
        test: Scored by the final model, whose ``inverse_temperature`` is that of its probabilities.
        rate: With negatives, at most so many of them are taken for a class; without, at most so many known
            clips are answered none.
        distances: Of the clips of both parts, the first out of fold; needed without negatives.
    """
    if NONE in devel.classes:
        column = devel.classes.index(NONE)
        # Out-of-fold scores may be those of other models than the final one, with a temperature of their own.
        own = fit_inverse_temperature(devel.scores, devel.truth, devel.kind)
        of_devel = probabilities(devel.scores, devel.kind, own)[:, column]
        of_test = probabilities(test.scores, test.kind, inverse_temperature)[:, column]
        rule = NoneRule.of_negatives(of_devel[devel.truth == column], rate)
        return NoneScores(rule, (devel, test), (of_devel, of_test))
    assert distances is not None
    far, far_test = distances
    rule = NoneRule.of_known(far, rate)
    return NoneScores(rule, (devel, test), (rule.ranks(far), rule.ranks(far_test)))
