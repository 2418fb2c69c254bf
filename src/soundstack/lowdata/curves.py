"""What becomes of scores by draw: a curve a system, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from soundstack.config.lowdata import ALL, LowdataConfig
from soundstack.datasets.data_set import DataSet
from soundstack.evaluation.metrics import mean_scores
from soundstack.evaluation.score_table import ScoreTable
from soundstack.evaluation.statistics import intervals_over_draws
from soundstack.lowdata.draws import Draw
from soundstack.lowdata.systems import Scores, System
from soundstack.recognisers.evaluate import score_table
from soundstack.utils.folds import TEST

SCHEMA = 1
_MEASURES = ("accuracy", "macro_f1")


def curve(system: System, data_set: DataSet, draws: Sequence[Draw], scores: Sequence[Scores]) -> dict[str, Any]:
    """The scores (E, K) of the test examples by draw as a curve: a point a size, with the interval over its draws."""
    tables = [_table(system, data_set, part) for part in scores]
    groups = {clip.id: clip.group for clip in data_set.clip_table.test}
    points = []
    for size in dict.fromkeys(draw.size for draw in draws):
        chosen = [table for table, draw in zip(tables, draws, strict=True) if draw.size == size]
        found = intervals_over_draws(chosen, groups)
        by_draw = [dict(zip(_MEASURES, mean_scores(table), strict=True)) for table in chosen]
        point: dict[str, Any] = {"clips": size, "draws": by_draw}
        for measure in _MEASURES:
            interval = found[measure]
            deviation = float(np.std([each[measure] for each in by_draw], ddof=1))
            point[measure] = {
                "value": interval.value, "low": interval.low, "high": interval.high, "deviation": deviation,
            }  # fmt: skip
        points.append(point)
    return {"name": system.name, "settings": system.config.model_dump(mode="json"), "points": points}


def metrics(point: dict[str, Any]) -> dict[str, float]:
    """A point of a curve as metrics of a run, whose step is its number of clips."""
    ends = (("", "value"), ("_ci_low", "low"), ("_ci_high", "high"), ("_deviation", "deviation"))
    return {f"lowdata/test_{name}{suffix}": point[name][end] for name in _MEASURES for suffix, end in ends}


def content(
    data_set: DataSet, draws: Sequence[Draw], curves: Sequence[dict[str, Any]], config: LowdataConfig, *notes: str
) -> dict[str, Any]:
    """All that a report needs of a comparison, JSON-able."""
    counts = data_set.devel_counts()
    largest = max(counts.values())
    of_first = [draw for draw in draws if draw.number == 0]
    test = data_set.clip_table.test
    return {
        "schema": SCHEMA,
        "dataset": config.data_name,
        "data_fingerprint": data_set.fingerprint,
        "classes": len(data_set.clip_table.labels),
        "sizes": [
            {
                "clips": draw.size,
                "name": ALL if draw.size == largest else str(draw.size),
                "in_all": len(draw.clips),
                "smaller_classes": [label for label in counts if counts[label] < draw.size < largest],
            }
            for draw in of_first
        ],
        "draws": config.draws,
        "seed": config.seed,
        "test_clips": len(test),
        "test_groups": len({clip.group for clip in test}),
        "systems": list(curves),
        "notes": list(notes),
    }


def as_csv(found: dict[str, Any]) -> str:
    """A row for each system, size and draw of :func:`content`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["system", "clips", "draw", *_MEASURES])
    for each in found["systems"]:
        for point in each["points"]:
            for number, draw in enumerate(point["draws"]):
                writer.writerow([each["name"], point["clips"], number, *(draw[name] for name in _MEASURES)])
    return text.getvalue()


def _table(system: System, data_set: DataSet, of_test: Scores) -> ScoreTable:
    """Scores (E, K) of the test examples as a table of the test clips."""
    clips, labels = data_set.clip_table.test, data_set.clip_table.labels
    scores = np.zeros((len(data_set.examples), len(labels)))
    scores[data_set.example_folds == TEST] = of_test
    return score_table(clips, data_set.clip_means(scores)[-len(clips) :], labels, system.kind)
