"""Tracked model runs made by hand, as the entry points log them, for tests of what reads them. Nothing is trained."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from soundstack.evaluation.statistics import bootstrap_intervals
from soundstack.scores import ScoreTable

EPOCH = datetime(2025, 3, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class FakeData:
    """A data set of labels alone: ``classes`` with ``each`` clips a fold, two clips of a class a group."""

    classes: Sequence[str]
    each: int = 4
    folds: Sequence[str] = ("1", "2", "3", "4", "test")

    def clips(self, test: bool) -> list[tuple[str, str, str, str]]:
        """Clip, label, fold and group."""
        return [
            (f"{fold}-{label}-{take}.wav", label, fold, f"{fold}-{label}-{take // 2}")
            for fold in self.folds
            if (fold == "test") == test
            for label in self.classes
            for take in range(self.each)
        ]

    def scores(self, test: bool, skill: float, seed: int) -> ScoreTable:
        """Scores that are right the more often the greater ``skill``; clips are equally hard for all systems."""
        clips = self.clips(test)
        common = np.random.default_rng(1).standard_normal((len(clips), len(self.classes)))
        own = np.random.default_rng(seed).standard_normal((len(clips), len(self.classes)))
        index = {label: column for column, label in enumerate(self.classes)}
        values = 0.7 * common + 0.7 * own
        ease = np.random.default_rng(2).uniform(0.4, 1.6, len(self.classes))
        for row, (_, label, _, _) in enumerate(clips):
            values[row, index[label]] += skill * ease[index[label]]
        names, labels, folds, _ = zip(*clips, strict=True)
        return ScoreTable(names, labels, folds, values, tuple(self.classes), "decision")


def log_run(
    name: str,
    data: FakeData,
    *,
    skill: float = 3.0,
    seed: int = 0,
    hours: float = 0.0,
    fingerprint: str = "data1",
    params: Mapping[str, object] | None = None,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    status: str = "FINISHED",
    intervals: bool = True,
) -> str:
    """Log a model run and return its id; ``hours`` after `EPOCH` it started."""
    client = MlflowClient()
    start = int((EPOCH.timestamp() + 3600 * hours) * 1000)
    experiment = client.search_experiments()[0].experiment_id
    run = client.create_run(experiment, start_time=start, run_name=name).info.run_id
    dataset = name.partition("-")[0]
    tables = {part: data.scores(part == "test", skill, seed + 10) for part in ("devel", "test")}
    groups = {clip: group for test in (False, True) for clip, _, _, group in data.clips(test)}
    values: dict[str, float] = {"clips_devel": len(tables["devel"].clips), "clips_test": len(tables["test"].clips)}
    for part, table in tables.items():
        for measure, interval in bootstrap_intervals(table, groups, n_boot=100).items():
            values[f"{part}_{measure}"] = interval.value
            if intervals:
                values |= {f"{part}_{measure}_ci_low": interval.low, f"{part}_{measure}_ci_high": interval.high}
    values |= metrics or {}
    logged = {"seed": seed} | dict(params or {})
    marks = {"dataset": dataset, "data_fingerprint": fingerprint} | dict(tags or {})
    client.log_batch(
        run,
        metrics=[Metric(key, value, start, 0) for key, value in values.items()],
        params=[Param(key, str(value)) for key, value in logged.items()],
        tags=[RunTag(key, value) for key, value in marks.items()],
    )
    with tempfile.TemporaryDirectory() as folder:
        for part, table in tables.items():
            table.to_parquet(Path(folder) / "predictions" / f"{part}.parquet")
        (Path(folder) / "data").mkdir()
        with (Path(folder) / "data" / "clips.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["filename", "label", "fold", "group"])
            writer.writerows(row for test in (False, True) for row in data.clips(test))
        client.log_artifacts(run, folder)
    client.set_terminated(run, status, end_time=start + 1000)
    return run
