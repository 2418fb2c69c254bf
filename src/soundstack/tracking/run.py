"""Runs and their artifacts.

A run collects its artifacts in a temporary folder and sends them before its model is registered, and what came later
when it ends, also when it fails. It ends FINISHED, FAILED (an error) or KILLED (interrupted), never RUNNING; runs that
a killed process left RUNNING on this machine are closed by the next start.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import optuna
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from soundstack.config.steps import Config
from soundstack.datasets.corpus import Corpus
from soundstack.evaluation import plots
from soundstack.evaluation.evaluation import Evaluation
from soundstack.svm.cost_search import CostSearch
from soundstack.tracking.store import PROCESS_TAG, LostStoreError, connect, end, explained, first_line, me, trouble
from soundstack.utils import provenance
from soundstack.utils.errors import StoreError
from soundstack.utils.files import save_figure, write_json
from soundstack.utils.signals import interrupted, put_off

_BATCH = 1000
_LONGEST_PARAM = 6000


@dataclass
class Run:
    """An open MLflow run.

    Its time budget: ``stages`` follow one another; ``parts`` of a stage are what its threads did side by side.
    """

    id: str
    name: str
    folder: Path
    stages: dict[str, float] = field(default_factory=dict)
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    _metrics: list[Metric] = field(default_factory=list)
    _sent: set[tuple[Path, int]] = field(default_factory=set)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to the run's time budget."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - started

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Keep metric values; they are sent in batches."""
        now = int(time.time() * 1000)
        self._metrics += [Metric(name, float(value), now, step) for name, value in values.items()]
        if len(self._metrics) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Send the kept metric values."""
        client = MlflowClient()
        for start in range(0, len(self._metrics), _BATCH):
            client.log_batch(self.id, metrics=self._metrics[start : start + _BATCH])
        self._metrics.clear()

    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags."""
        MlflowClient().log_batch(self.id, tags=[RunTag(name, str(value)) for name, value in values.items()])

    def settings(self, config: Config, resolved: Mapping[str, Any]) -> None:
        """Log every parameter, what ``auto`` became, code and machine, as parameters and as ``config.json``."""
        client = MlflowClient()
        parameters = config.model_dump(mode="json")
        # `mlflow run` has logged what it was given; the same key cannot be logged with another value.
        present = client.get_run(self.id).data.params
        wanted = parameters | {f"resolved_{name}": value for name, value in resolved.items()}
        client.log_batch(
            self.id,
            params=[Param(n, str(v)[:_LONGEST_PARAM]) for n, v in wanted.items() if n not in present],
        )
        environment = provenance.environment()
        self.tags(
            {
                "soundstack.code": environment["code_fingerprint"],
                "soundstack.commit": environment["git_commit"],
            }
        )
        content = {"parameters": parameters, "resolved": dict(resolved), "environment": environment}
        write_json(self.folder / "config.json", content)

    def corpus(self, corpus: Corpus) -> None:
        """Log what data went in: fingerprint, clip table, counts, notes."""
        dataset = corpus.dataset
        counts = {
            "clips_devel": len(dataset.devel),
            "clips_test": len(dataset.test),
            "clips_skipped": len(corpus.skipped),
            "clips_silent": len(corpus.silent),
            "classes": len(dataset.labels),
        }
        self.dataset(dataset.name, corpus.fingerprint, counts)
        self.metrics(counts)
        (self.folder / "data").mkdir(exist_ok=True)
        (self.folder / "data" / "clips.csv").write_text(corpus.manifest(), encoding="utf-8")
        content = {
            "dataset": dataset.name,
            "fingerprint": corpus.fingerprint,
            "audio": corpus.audio.to_json(),
            "folds": dataset.folds,
            "counts": corpus.counts(),
            "notes": dataset.notes,
            "skipped": corpus.skipped,
            "silent": corpus.silent,
            "licence": dataset.licence,
            "citation": dataset.citation,
        }
        write_json(self.folder / "data" / "data.json", content)

    def dataset(self, name: str, data_fingerprint: str, counts: Mapping[str, int]) -> None:
        """Log what data went in, as tags and in the UI's column "Dataset", by which runs are filtered and compared."""
        self.tags({"dataset": name, "data_fingerprint": data_fingerprint})
        used = Dataset(name, data_fingerprint, source_type="soundstack", source="{}", profile=json.dumps(dict(counts)))
        context = InputTag("mlflow.data.context", "development and test")
        MlflowClient().log_inputs(self.id, datasets=[DatasetInput(used, [context])])

    def cost_search(self, search: CostSearch) -> None:
        """Log the fold scores of every searched C, and their plot; the metrics' step is the rank of C."""
        for rank, cost in enumerate(search.costs):
            values = {"path/C": cost, "path/macro_f1": float(search.fold_macro_f1[rank].mean())}
            for fold, macro, accuracy in zip(
                search.folds, search.fold_macro_f1[rank], search.fold_accuracy[rank], strict=True
            ):
                values |= {f"path/macro_f1_fold_{fold}": macro, f"path/accuracy_fold_{fold}": accuracy}
            self.metrics(values, step=rank)
        self.metrics({"C": search.chosen})
        content = {
            "chosen": search.chosen,
            "costs": search.costs,
            "folds": search.folds,
            "fold_accuracy": search.fold_accuracy.tolist(),
            "fold_macro_f1": search.fold_macro_f1.tolist(),
        }
        write_json(self.folder / "svm" / "costs.json", content)
        figure = plots.c_path_figure(search.costs, search.fold_macro_f1, search.chosen, search.fold_accuracy)
        save_figure(figure, self.folder / "svm" / "costs.png")

    def evaluation(self, evaluation: Evaluation) -> None:
        """Log the contract's metrics and artifacts."""
        self.metrics(evaluation.metrics())
        for fold, values in evaluation.fold_metrics():
            self.metrics(values, step=fold)
        evaluation.write(self.folder, self.name)

    def send(self) -> None:
        """Send the metrics and artifacts that have not been sent yet."""
        self.flush()
        client = MlflowClient()
        for path in sorted(self.folder.rglob("*")):
            version = (path, path.stat().st_mtime_ns)
            if path.is_file() and version not in self._sent:
                below = path.parent.relative_to(self.folder).as_posix()
                client.log_artifact(self.id, str(path), None if below == "." else below)
                self._sent.add(version)

    def close(self) -> None:
        """Send what is left: time budget, metrics, artifacts."""
        if self.stages:
            self.metrics({f"seconds/{name.replace(' ', '_')}": seconds for name, seconds in self.stages.items()})
            for stage, parts in self.parts.items():
                self.metrics({f"seconds/{stage}_{part}": seconds for part, seconds in parts.items()})
            write_json(self.folder / "time.json", {"stages": self.stages, "parts": self.parts})
            save_figure(plots.time_budget_figure(self.stages, self.parts), self.folder / "time.png")
        self.send()


@contextmanager
def run(name: str, config: Config) -> Iterator[Run]:
    """Open the run of a step: the one that ``mlflow run`` made, a child of the open one, or a new one.

    Raises:
        StoreError: The tracking store cannot be used, or a disk is full.
    """
    step = type(config).__name__.removesuffix("Config").lower()
    with _opened(name, step, continues=config.continues) as opened:
        yield opened


@contextmanager
def trial(name: str, params: Mapping[str, Any]) -> Iterator[Run]:
    """Open the child run of an Optuna trial; a pruned trial ends KILLED, not FAILED, and its pruning is passed on."""
    with _opened(name, "trial") as opened:
        MlflowClient().log_batch(opened.id, params=[Param(key, str(value)) for key, value in params.items()])
        yield opened


@contextmanager
def _opened(name: str, step: str, *, continues: bool = True) -> Iterator[Run]:
    if interrupted():  # the interrupt was lost in a library
        raise KeyboardInterrupt
    connect()
    nested = mlflow.active_run() is not None
    given = not nested and "MLFLOW_RUN_ID" in os.environ
    folder: Path | None = None
    opened: Run | None = None
    try:
        with explained(), ExitStack() as stack:
            folder = me().temporary_folder()
            if not nested:
                stack.enter_context(_temporary_files_in(folder.with_name(folder.name + "-others")))
            tags = {
                PROCESS_TAG: me().mark,
                "soundstack.step": step,
            }  # signed as it is made: if we die, it can be closed
            with put_off():
                active = mlflow.start_run(nested=nested, run_name=None if given else name, tags=tags)
                opened = Run(active.info.run_id, name, folder)
            if given and re.fullmatch(r"[a-z]+-[a-z]+-\d+", active.info.run_name or ""):
                # Replace MLflow's random name, keep one the user gave.
                MlflowClient().update_run(opened.id, name=name)
            yield opened
            opened.close()
            with put_off():
                end(RunStatus.FINISHED)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | StoreError) or interrupted()
        if opened is not None and continues and stopped and not hasattr(error, "__notes__"):
            error.add_note("Finished work is kept; the same command continues.")
        active_now = mlflow.active_run()
        if opened is not None and active_now is not None and active_now.info.run_id == opened.id:
            with put_off():
                _end(opened, error)
        raise
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let libraries put their copies of models and downloads where they are removed, by a later start if need be."""
    before = tempfile.tempdir
    folder.mkdir()
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)


def _end(opened: Run, error: BaseException) -> None:
    """End a run after an error with what it has; trouble with that must not hide the error."""
    killed = isinstance(error, KeyboardInterrupt | SystemExit | optuna.TrialPruned) or interrupted()
    lost = isinstance(error, LostStoreError)
    if not lost:
        try:
            tag = "soundstack.pruned" if isinstance(error, optuna.TrialPruned) else "soundstack.error"
            opened.tags({tag: first_line(error)[:500]})
            opened.close()
        except Exception as another:
            lost = isinstance(trouble(another), LostStoreError)
            print(f"While closing the run: {trouble(another) or first_line(another)}", file=sys.stderr)
    with contextlib.suppress(MlflowException, OSError):  # not ended: a later start does it
        end(RunStatus.KILLED if killed else RunStatus.FAILED, patient=not lost)
