"""The tracking store: how it is reached, what its troubles mean for the user, and the runs that nobody will end.

A store that cannot be reached, a full disk and rights that are missing are the user's to mend: they become one line
each. Runs that a killed process left RUNNING are closed here by the next start.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import mlflow
import psutil
import requests
from mlflow.entities import Experiment, RunStatus
from mlflow.entities import Run as StoredRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils import mlflow_tags
from sqlalchemy import event, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, Pool

from soundstack import presence
from soundstack.config import PROJECT
from soundstack.errors import SoundstackError, StoreError
from soundstack.locks import exclusive
from soundstack.signals import hold, release

PROCESS_TAG = "soundstack.process"
#: MLflow asks a server that is gone for four minutes, and one that is silent for sixteen; here it is half a minute,
#: enough for a restart, and three minutes. What the user has set is kept.
_HTTP = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
#: Marks a database connection in use that keeps signals waiting.
_HELD = "soundstack.held"
_PAGE = 500
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_CONTINUES = "Finished work is kept; the same command continues."


class LostStoreError(StoreError):
    """The tracking store is out of reach: nothing more can be written to it now."""


@event.listens_for(Pool, "checkout")
def _keep_whole(connection: object, record: ConnectionPoolEntry, proxy: object) -> None:
    # An interrupt in the midst of a transaction can leave its lock behind, and then not even the run can be ended.
    record.info[_HELD] = hold()


@event.listens_for(Pool, "detach")
@event.listens_for(Pool, "checkin")
def _is_whole(connection: object, record: ConnectionPoolEntry) -> None:
    if record.info.pop(_HELD, False):
        release()


@cache
def connect() -> None:
    """Point MLflow at the project's own store unless ``MLFLOW_TRACKING_URI`` says otherwise, and check it.

    Raises:
        StoreError: The store cannot be reached, or its artifacts cannot be written from here.
    """
    os.environ.setdefault("MLFLOW_DISABLE_SCHEMA_DETAILS", "true")
    for name, value in _HTTP.items():
        os.environ.setdefault(name, value)
    for logger in ("mlflow.store.db.utils", "urllib3.connectionpool"):  # tracebacks and retries; the error says it all
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    os.chdir(PROJECT)  # MLflow resolves its default artifact folder, ./mlruns, against this
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri(f"sqlite:///{PROJECT / 'mlflow.db'}")
    uri = mlflow.get_tracking_uri()
    client = MlflowClient()
    try:
        me()
        with exclusive(
            _creation_lock(uri), "the tracking store", "or name another store"
        ):  # two processes must not create it at once
            _create(uri)
            experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID")
            experiment = client.get_experiment(experiment_id) if experiment_id else _default_experiment(client)
        _refuse_artifacts_behind_a_server(uri, experiment)
        presence.remove_leftovers(me().path.parent)
        _close_orphans(client, uri)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = trouble(error) if isinstance(error, OSError) else None
        raise reason or StoreError(f"The tracking store {uri} cannot be used: {first_line(error)}") from None


def me() -> presence.Presence:
    """This process's sign of life."""
    return presence.announce(PROJECT / "mlruns" / ".alive")


def _default_experiment(client: MlflowClient) -> Experiment | None:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    return client.get_experiment_by_name(name) if name else client.get_experiment("0")


def _refuse_artifacts_behind_a_server(uri: str, experiment: Experiment | None) -> None:
    location = experiment.artifact_location if experiment else ""
    if experiment and location.startswith("mlflow-artifacts:") and not uri.startswith(("http://", "https://")):
        raise StoreError(
            f"Experiment {experiment.name!r} keeps its artifacts behind an MLflow server ({location}), but this run "
            "writes to the database directly: `mlflow ui` was started before the first run. Remove mlflow.db, or run "
            "with --experiment-name NEW; start the UI as the README says (--no-serve-artifacts)."
        )


def _database(uri: str) -> Path | None:
    """The file of a SQLite store."""
    if not uri.startswith("sqlite:"):
        return None
    name = make_url(uri).database
    return None if not name or name == ":memory:" else Path(name).absolute()


def _creation_lock(uri: str) -> Path:
    database = _database(uri)
    if database is None or database == PROJECT / "mlflow.db" or not database.parent.is_dir():
        return PROJECT / "mlruns" / ".lock"
    return database.with_name(f".{database.name}.lock")  # beside it: other checkouts may share it


def _create(uri: str) -> None:
    """Lay out a new SQLite store under another name: killed meanwhile, it would be neither new nor usable."""
    database = _database(uri)
    if database is None or (database.exists() and database.stat().st_size):
        return
    for orphan in database.parent.glob(f".{database.name}.*.tmp*"):
        orphan.unlink(missing_ok=True)
    temporary = database.with_name(f".{database.name}.{os.getpid()}.tmp")
    MlflowClient(make_url(uri).set(database=str(temporary)).render_as_string(False)).search_experiments()
    temporary.replace(database)


def experiment_ids(client: MlflowClient) -> list[str]:
    """The ids of all experiments."""
    found: list[str] = []
    token = None
    while True:
        page = client.search_experiments(max_results=_PAGE, page_token=token)
        found += [experiment.experiment_id for experiment in page]
        token = page.token
        if not token:
            return found


def _close_orphans(client: MlflowClient, uri: str) -> None:
    """End the runs that a killed process left RUNNING; what may live is left alone."""
    experiments = experiment_ids(client)
    running: list[StoredRun] = []
    token = None
    while experiments:  # read to the end first: closing runs would move the pages
        page = client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=_PAGE, page_token=token)
        running += page
        token = page.token
        if not token:
            break
    for run in running:
        mark = run.data.tags.get(PROCESS_TAG)
        if presence.is_dead(mark) if mark else _never_began(run, uri):
            client.set_tag(run.info.run_id, "soundstack.closed", "its process was killed; closed by a later start")
            client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.KILLED))


def _never_began(run: StoredRun, uri: str) -> bool:
    """Tell whether ``mlflow run`` made a run for this project on this machine, and its process died before it signed.

    Only a SQLite store is known to be of this machine, and only a run that no `mlflow run` and no process of a run
    which lives here can still be about to sign is given up.
    """
    tags = run.data.tags
    if (
        tags.get(mlflow_tags.MLFLOW_SOURCE_TYPE) != "PROJECT"
        or tags.get(mlflow_tags.MLFLOW_PROJECT_BACKEND, "local") != "local"
        or Path(tags.get(mlflow_tags.MLFLOW_SOURCE_NAME, "").partition("#")[0].removeprefix("file://")) != PROJECT
        or _database(uri) is None
        or run.info.run_id == os.environ.get("MLFLOW_RUN_ID")
    ):
        return False
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            launches = "run" in words and any(Path(word).name.startswith("mlflow") for word in words)
            if launches and process.create_time() < run.info.start_time / 1000 + 2:
                return False
            if process.environ().get("MLFLOW_RUN_ID") == run.info.run_id:
                return False
        except psutil.Error:  # ended meanwhile, or another user's
            continue
    return True


def fetched(what: str, failure: type[SoundstackError], remedy: str = "", **source: str) -> Path:
    """Fetch an artifact; ``source`` is what MLflow's ``download_artifacts`` takes.

    Raises:
        failure: It is not there any more: ``what`` cannot be fetched, and the ``remedy``.
    """
    try:
        return Path(mlflow.artifacts.download_artifacts(**source))
    except (MlflowException, OSError) as error:
        raise failure(f"{what} cannot be fetched ({first_line(error)}).{remedy}") from None


def end(status: int, *, patient: bool = True) -> None:
    """End the active run; without patience where the store was just seen to be gone.

    Raises:
        MlflowException: The store did not take it; a later start will close the run.
    """
    before = os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    if not patient:
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    try:
        mlflow.end_run(RunStatus.to_string(status))
    finally:
        if before is not None:
            os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = before


@contextmanager
def explained() -> Iterator[None]:
    """Turn trouble with the store, a full disk and missing rights into a StoreError; let everything else through."""
    try:
        yield
    except Exception as error:
        told = None if isinstance(error, SoundstackError) else trouble(error)
        if told is None:
            raise
        raise told from error


def trouble(error: BaseException) -> StoreError | None:
    """Say in one line what went wrong with the store or a disk; ``None`` if that is not what went wrong."""
    if _is_full(error):
        return StoreError(f"No space left on the disk{_where(error)}. Free space{_full_folders()}. {_CONTINUES}")
    if _is_lost(error):
        return LostStoreError(
            f"The tracking store {mlflow.get_tracking_uri()} cannot be used any more ({_reason(error)}). {_CONTINUES}"
        )
    if isinstance(error, OSError) and error.errno in _REFUSED and error.filename:
        return StoreError(f"{error.filename} cannot be written ({error.strerror}); mend its rights. {_CONTINUES}")
    return None


def _is_full(error: BaseException) -> bool:
    # Whoever writes has an error type of their own; what the system says is in all of them.
    text = str(error)
    return (isinstance(error, OSError) and error.errno in _FULL) or any(
        words in text for words in (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "database or disk is full")
    )


def _is_lost(error: BaseException) -> bool:
    if isinstance(error, requests.RequestException):
        return True
    if not isinstance(error, MlflowException):
        return False
    return (
        error.error_code in ("TEMPORARILY_UNAVAILABLE", "RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED")
        or isinstance(error.__cause__, requests.RequestException | SQLAlchemyError | OSError)
        or first_line(error).startswith("API request to")
    )


def _reason(error: BaseException) -> str:
    text = first_line(error)
    for sign, meaning in (
        ("Connection refused", "connection refused"),
        ("timed out", "no answer in time"),
        ("Max retries exceeded", "no connection"),
    ):
        if sign in text:
            return meaning
    return text


def _where(error: BaseException) -> str:
    name = getattr(error, "filename", None)
    return f" of {name}" if name else ""


def _full_folders() -> str:
    """Name the places of a run that have no room, as far as they are known."""
    places = {"temporary files (TMPDIR)": Path(tempfile.gettempdir()), "the project": PROJECT}
    database = _database(mlflow.get_tracking_uri())
    if database is not None:
        places["the tracking store"] = database.parent
    full = []
    for name, place in places.items():
        with suppress(OSError):
            if shutil.disk_usage(place).free < 1 << 20:
                full.append(f"{place} for {name}")
    return f" in {', '.join(full)}" if full else ""


def first_line(error: Any) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
