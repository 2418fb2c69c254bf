"""Queries of the tracking store: the finished model runs, and their artifacts. Nothing is written."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from soundstack.config.base import Config
from soundstack.config.steps import MODEL_STEPS
from soundstack.tracking.store import connect, fetched, whole
from soundstack.tracking.store_errors import first_line
from soundstack.utils.errors import StoreError


@dataclass(frozen=True)
class ModelRun:
    """A finished run that trained and scored a model; its name is the registered model's, else the run's own."""

    id: str
    name: str
    dataset: str
    data_fingerprint: str
    started: datetime
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def short_name(self) -> str:
        """The name without its leading ``<dataset>-``."""
        return self.name.removeprefix(f"{self.dataset}-")

    @property
    def seed(self) -> str:
        """The logged seed; ``"0"``, the default, where none was logged."""
        return self.params.get("seed", "0")

    def artifact(self, path: str) -> Path:
        """Fetch an artifact; a StoreError tells that it is not there any more."""
        what = f"{self.name} (run {self.id[:8]}): its artifact {path}"
        return fetched(what, StoreError, run_id=self.id, artifact_path=path)


def finished_model_runs() -> list[ModelRun]:
    """The finished runs of all experiments that scored a model on known data, newest first.

    They have the tags ``dataset`` and ``data_fingerprint`` and a devel score; others lack one of them.

    Raises:
        StoreError: The store cannot be read.
    """
    scored = {"devel_accuracy", "devel_macro_f1"}
    return [run for run in _finished_runs() if scored & run.metrics.keys()]


def newest_comparisons(steps: Collection[str], datasets: str) -> list[ModelRun]:
    """The newest finished run of each name of the steps, which compare systems, on data sets, comma-separated or all.

    Raises:
        StoreError: The store cannot be read.
    """
    found: dict[str, ModelRun] = {}
    for run in _finished_runs():
        if run.tags.get("soundstack.step") in steps and (datasets == "all" or run.dataset in datasets.split(",")):
            found.setdefault(run.name, run)
    return list(found.values())


@whole
def _finished_runs() -> list[ModelRun]:
    """The finished runs with the tags ``dataset`` and ``data_fingerprint``, newest first."""
    connect()
    query = "attributes.status = 'FINISHED' and tags.data_fingerprint != ''"
    try:
        runs = mlflow.search_runs(search_all_experiments=True, filter_string=query, output_format="list")
    except MlflowException as error:
        raise StoreError(f"The tracking store cannot be read: {first_line(error)}") from None
    found = [_model_run(run) for run in runs if "dataset" in run.data.tags]
    return sorted(found, key=lambda run: run.started, reverse=True)


def _model_run(run: Run) -> ModelRun:
    tags = dict(run.data.tags)
    registered = tags.get("registered_model", "").rpartition("/")[0]
    return ModelRun(
        id=run.info.run_id,
        name=registered or run.info.run_name or "",
        dataset=tags["dataset"],
        data_fingerprint=tags["data_fingerprint"],
        started=datetime.fromtimestamp(run.info.start_time / 1000, tz=UTC),
        params=MODEL_STEPS.get(tags.get("soundstack.step", ""), Config).as_logged(run.data.params),
        metrics=dict(run.data.metrics),
        tags=tags,
    )
