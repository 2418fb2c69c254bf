"""Runs and their artifacts.

A run collects its artifacts in a temporary folder and sends them before its model is registered, and what came later
when it ends, also when it fails. It ends FINISHED, FAILED (an error) or KILLED (interrupted), never RUNNING; runs that
a killed process left RUNNING on this machine, or on a server, are closed by the next start.
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
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from soundstack.config.base import Config
from soundstack.evaluation import plots
from soundstack.evaluation.evaluation import Evaluation
from soundstack.tracking import heartbeat, presence
from soundstack.tracking.store import PROCESS_TAG, connect, whole
from soundstack.tracking.store_errors import LostStoreError, explained, first_line, trouble
from soundstack.utils import provenance
from soundstack.utils.errors import StoreError
from soundstack.utils.files import save_figure, write_json
from soundstack.utils.signals import interrupted, put_off

_BATCH = 1000


@dataclass
class Run:
    """An open MLflow run: what is written to its folder becomes its artifacts.

    ``stages`` follow one another; ``parts`` of a stage are what its threads did side by side. Both are in seconds.
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

    @whole
    def flush(self) -> None:
        """Send the kept metric values."""
        while self._metrics:
            MlflowClient().log_batch(self.id, metrics=self._metrics[:_BATCH])
            del self._metrics[:_BATCH]

    @whole
    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags."""
        MlflowClient().log_batch(self.id, tags=[RunTag(name, str(value)) for name, value in values.items()])

    @whole
    def params(self, values: Mapping[str, object]) -> None:
        """Log parameters; what `mlflow run` was given it has logged, and the same key takes no other value."""
        client = MlflowClient()
        present = client.get_run(self.id).data.params
        new = [Param(name, str(value)[:6000]) for name, value in values.items() if name not in present]
        client.log_batch(self.id, params=new)

    def settings(self, config: Config, resolved: Mapping[str, Any]) -> None:
        """Log every parameter, what ``auto`` became, code and machine, as parameters and as ``config.json``."""
        parameters = config.model_dump(mode="json")
        self.params(parameters | {f"resolved_{name}": value for name, value in resolved.items()})
        environment = provenance.environment()
        self.tags({"soundstack.code": environment["code_fingerprint"], "soundstack.commit": environment["git_commit"]})
        content = {"parameters": parameters, "resolved": dict(resolved), "environment": environment}
        write_json(self.folder / "config.json", content)

    def dataset(self, name: str, data_fingerprint: str, counts: Mapping[str, int]) -> None:
        """Log what data went in, as tags and in the UI's column "Dataset", by which runs are filtered and compared."""
        self.tags({"dataset": name, "data_fingerprint": data_fingerprint})
        used = Dataset(name, data_fingerprint, source_type="soundstack", source="{}", profile=json.dumps(dict(counts)))
        context = InputTag("mlflow.data.context", "development and test")
        whole(MlflowClient().log_inputs)(self.id, datasets=[DatasetInput(used, [context])])

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
                whole(client.log_artifact)(self.id, str(path), None if below == "." else below)
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
    def trial(self, name: str, params: Mapping[str, object], pruned: type[Exception]) -> Iterator[Run]:
        """Open the child run of a trial; ended by the error ``pruned``, it is KILLED, not FAILED, and passes it on."""
        with _opened(name, "trial", pruned=pruned) as opened:
            opened.params(params)
            yield opened


def run(name: str, config: Config) -> AbstractContextManager[Run]:
    """Open the run of a step: the one that ``mlflow run`` made, a child of the open one, or a new one.

    Raises:
        StoreError: The tracking store cannot be used, or a disk is full.
    """
    return _opened(name, config.step(), continues=config.continues)


@contextmanager
def _opened(name: str, step: str, *, continues: bool = True, pruned: type[Exception] | tuple[()] = ()) -> Iterator[Run]:
    if interrupted():  # the interrupt was lost in a library
        raise KeyboardInterrupt
    connect()
    nested = mlflow.active_run() is not None
    given = not nested and "MLFLOW_RUN_ID" in os.environ
    tags = {PROCESS_TAG: presence.mark(), "soundstack.step": step}  # signed as it is made: if we die, it can be closed
    opened: Run | None = None
    with explained(), _temporary_folder(of_libraries=not nested) as folder:
        try:
            with explained():
                tags |= heartbeat.sign()
                with put_off():
                    active = mlflow.start_run(nested=nested, run_name=None if given else name, tags=tags)
                    opened = Run(active.info.run_id, name, folder)
                if given and re.fullmatch(r"[a-z]+-[a-z]+-\d+", active.info.run_name or ""):
                    # Replace MLflow's random name, keep one the user gave.
                    whole(MlflowClient().update_run)(opened.id, name=name)
                with heartbeat.beating(opened.id):
                    yield opened
                    opened.close()
                with put_off():
                    _end(RunStatus.FINISHED)
        except BaseException as error:
            if opened is not None:
                stopped = isinstance(error, KeyboardInterrupt | StoreError) or interrupted()
                if continues and stopped and not hasattr(error, "__notes__"):
                    error.add_note("Finished work is kept; the same command continues.")
                active_now = mlflow.active_run()
                if active_now is not None and active_now.info.run_id == opened.id:
                    with put_off():
                        _end_after(error, opened, pruned)
            raise


@contextmanager
def _temporary_folder(*, of_libraries: bool) -> Iterator[Path]:
    """Make a folder for artifacts, beside which libraries put their copies; a later start removes what is left."""
    before = tempfile.tempdir
    folder = presence.temporary_folder()
    try:
        for name in ("artifacts", "libraries"):
            (folder / name).mkdir()
        if of_libraries:
            tempfile.tempdir = str(folder / "libraries")
        yield folder / "artifacts"
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)


def _end_after(error: BaseException, opened: Run, pruned: type[Exception] | tuple[()]) -> None:
    """End a run after an error with what it has; trouble with that must not hide the error."""
    killed = isinstance(error, (KeyboardInterrupt, SystemExit, pruned)) or interrupted()
    lost = isinstance(error, LostStoreError)
    if not lost:
        try:
            tag = "soundstack.pruned" if isinstance(error, pruned) else "soundstack.error"
            opened.tags({tag: first_line(error)[:500]})
            opened.close()
        except Exception as another:
            lost = isinstance(trouble(another), LostStoreError)
            print(f"While closing the run: {trouble(another) or first_line(another)}", file=sys.stderr)
    with contextlib.suppress(MlflowException, OSError):  # not ended: a later start does it
        _end(RunStatus.KILLED if killed else RunStatus.FAILED, patient=not lost)


def _end(status: int, *, patient: bool = True) -> None:
    """End the active run; without patience where the store was just seen to be gone."""
    before = os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    if not patient:
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    try:
        mlflow.end_run(RunStatus.to_string(status))
    finally:
        if before is not None:
            os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = before
