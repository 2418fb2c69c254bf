"""The tracking store: how it is reached and checked, how it is written to, and the runs that nobody will end.

A store that cannot be reached, a full disk and rights that are missing are the user's to mend: they become one line
each. Runs that a killed process left RUNNING are closed here by the next start, on a server that of any host.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache, wraps
from pathlib import Path
from typing import ParamSpec, TypeVar
from urllib.parse import unquote

import mlflow
from mlflow.entities import Experiment, RunStatus
from mlflow.entities import Run as StoredRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException
from mlflow.utils import mlflow_tags
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

from soundstack.config.places import project
from soundstack.tracking import heartbeat, moved_store, presence
from soundstack.tracking.store_errors import database_file, first_line, reason, trouble, without_password
from soundstack.utils.errors import SoundstackError, StoreError
from soundstack.utils.locks import exclusive
from soundstack.utils.project import PROJECT
from soundstack.utils.signals import put_off

P = ParamSpec("P")
T = TypeVar("T")

PROCESS_TAG = "soundstack.process"
#: MLflow asks a server that is gone for four minutes, and one that is silent for sixteen; here it is half a minute,
#: enough for a restart, and three minutes. What the user has set is kept.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_SCHEMA_DETAILS": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
#: Seconds before work on a locked database is tried again; MLflow itself waits for a lock for 20 s.
_PAUSES = (1.0, 5.0)
#: Until our process signs the run that `mlflow run` made it takes seconds, or minutes where an environment is built. If
#: it takes longer, the run, closed meanwhile, is RUNNING again from then on.
_BEGINS_WITHIN_SECONDS = 15 * 60.0


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let an interrupt wait for the end of our work on a database; a server's transactions are out of its reach.

    In the midst of a transaction it can leave a lock behind, and then not even the run can be ended.
    """
    with put_off() if _is_database(mlflow.get_tracking_uri()) else nullcontext():
        yield


def whole(work: Callable[P, T]) -> Callable[P, T]:
    """Let a function do its work on the store undisturbed, and again from its beginning if a SQLite file is locked."""

    @wraps(work)
    def done(*args: P.args, **options: P.kwargs) -> T:
        for pause in _PAUSES:
            try:
                with undisturbed():
                    return work(*args, **options)
            except MlflowException as error:
                if "database is locked" not in str(error):
                    raise
            time.sleep(pause)
        with undisturbed():
            return work(*args, **options)

    return done


@cache
def connect() -> str:
    """Point MLflow at ``mlflow.db`` where the user stands unless ``MLFLOW_TRACKING_URI`` says otherwise, and check it.

    Returns its address.

    Raises:
        StoreError: The store cannot be reached, or its artifacts cannot be written from here.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for logger in ("mlflow.store.db.utils", "urllib3.connectionpool"):  # tracebacks and retries; the error says it all
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    given = mlflow.get_tracking_uri()
    try:
        uri = _absolute(given)
        mlflow.set_tracking_uri(uri)
        if (experiment := _made_ready(uri)) is not None:
            _refuse(uri, experiment)
        presence.remove_leftovers()
        close_orphans()
        return uri
    except ImportError as error:
        raise StoreError(
            f"The tracking store {without_password(given)} needs a driver that is not here ({first_line(error)}): "
            'install it in this environment; for postgresql:// `uv pip install "psycopg[binary]"`.'
        ) from None
    except (UnsupportedModelRegistryStoreURIException, NoSuchModuleError):
        raise StoreError(
            f"The tracking store {without_password(given)} is of no kind that MLflow knows; name one as in "
            "sqlite:///mlflow.db, postgresql://USER@HOST/NAME or http://HOST:5000."
        ) from None
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        told = trouble(error) if isinstance(error, OSError) else None
        raise told or StoreError(
            f"The tracking store {without_password(given)} cannot be used: {reason(error)}."
        ) from None
    except ValueError:  # from SQLAlchemy, and with a part of the address, which may be one of its password
        raise StoreError(
            f"The tracking store {without_password(given)} is no address that can be read: what stands for "
            "USER:PASSWORD@HOST:PORT in it needs its special characters as %XX."
        ) from None


def _absolute(uri: str) -> str:
    """Read a store's address from where the user stands; refuse what is none, and what MLflow has given up."""
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):
        raise StoreError(f"The tracking store {uri} is no address; for a server write http://{uri}.")
    if ":" not in uri or uri.startswith("file:"):
        if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1"):
            return Path(unquote(uri.removeprefix("file://").removeprefix("file:"))).absolute().as_uri()
        raise StoreError(
            f"The tracking store {uri} is a folder of files, which MLflow has given up: move it into a database with "
            "`mlflow migrate-filestore`, or name one (MLFLOW_TRACKING_URI=sqlite:///mlflow.db)."
        )
    if not uri.startswith("sqlite:"):
        return uri
    query = uri.partition("?")[2]
    if query and "=" not in query:
        raise StoreError(f"The tracking store {uri} has a question mark in its path: write it %3F.")
    database = database_file(uri)
    if database is None:
        raise StoreError(f"The tracking store {uri} names no file; give one, as in sqlite:///mlflow.db.")
    if database.is_dir():
        raise StoreError(f"The tracking store {uri} is a folder; name a file, as in {uri.rstrip('/')}/mlflow.db.")
    absolute = make_url(uri).set(database=str(database)).render_as_string(hide_password=False)
    if unquote(absolute) == absolute:
        return absolute
    # MLflow would make empty folders whose names are spelt like the address; nobody changes the folder from here on.
    return make_url(uri).set(database=os.path.relpath(database)).render_as_string(hide_password=False)


def _is_database(uri: str) -> bool:
    """Tell whether this process is at the database itself, and not at a server before it."""
    return not uri.startswith(("http:", "https:", "file:", "databricks", "uc:"))


def _made_ready(uri: str) -> Experiment | None:
    """Lay out a new store and bring a moved one home; return the experiment that runs go to, if there is one yet."""
    database = database_file(uri)
    # Beside a database, since other folders' processes may share it; two must not create it at once.
    lock = Path("mlruns", ".lock").absolute() if database is None else database.with_name(f".{database.name}.lock")
    with exclusive(lock, "the tracking store", "or name another store"):
        _create(uri, database)
        client = MlflowClient()  # not before: it tries to reach a database for minutes
        experiment = _experiment(client)
        if database is not None:
            number = experiment.experiment_id if experiment is not None else ""
            moved_store.bring_home(database, number, os.environ.get("MLFLOW_RUN_ID"))
            experiment = _experiment(client)
        return experiment


def _create(uri: str, database: Path | None) -> None:
    """Lay out a new SQLite store under another name: killed meanwhile, it would be neither new nor usable.

    Any other is reached once: MLflow tries ten times, which takes two minutes.
    """
    if database is None or (database.exists() and database.stat().st_size):
        if _is_database(uri):
            create_engine(uri).connect().close()
        return
    for orphan in database.parent.glob(f".{database.name}.*.tmp*"):
        orphan.unlink(missing_ok=True)
    temporary = database.with_name(f".{database.name}.{os.getpid()}.tmp")
    MlflowClient(_absolute(make_url(uri).set(database=str(temporary)).render_as_string(False))).search_experiments()
    temporary.replace(database)


def _experiment(client: MlflowClient) -> Experiment | None:
    """The experiment that runs go to; none where MLflow will make it."""
    name, number = os.environ.get("MLFLOW_EXPERIMENT_NAME"), os.environ.get("MLFLOW_EXPERIMENT_ID")
    return client.get_experiment_by_name(name) if name and not number else client.get_experiment(number or "0")


def _refuse(uri: str, experiment: Experiment) -> None:
    """Refuse an experiment that no run can be opened in, or that a run cannot send its artifacts to."""
    location = experiment.artifact_location
    if experiment.lifecycle_stage == "deleted":
        raise StoreError(
            f"Experiment {experiment.name!r} is deleted: restore it with `mlflow experiments restore -x "
            f"{experiment.experiment_id}`, or name another one (MLFLOW_EXPERIMENT_NAME=NEW; for `mlflow run`, "
            "--experiment-name NEW)."
        )
    if location.startswith("mlflow-artifacts:") and not uri.startswith(("http://", "https://")):
        raise StoreError(
            f"Experiment {experiment.name!r} keeps its artifacts behind an MLflow server ({location}), but this run "
            "writes to the database directly: `mlflow ui` was started before the first run. Remove mlflow.db, or run "
            "with --experiment-name NEW; start the UI as the README says (--no-serve-artifacts)."
        )
    if location.startswith("/") and unquote(location) != location:
        raise StoreError(
            f"MLflow takes {location} for {unquote(location)}: stand in a folder whose path has no % followed by two "
            "digits."
        )
    if (folder := moved_store.local(location)) is not None:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # refused now, and not when the first artifact is sent


def close_orphans() -> None:
    """End the runs that a killed process left RUNNING; what may live is left alone."""
    client, query = MlflowClient(), "attributes.status = 'RUNNING'"
    runs = mlflow.search_runs(search_all_experiments=True, filter_string=query, output_format="list")
    now = heartbeat.server_time() if any(heartbeat.TAG in run.data.tags for run in runs) else 0.0
    for run in runs:
        mark = run.data.tags.get(PROCESS_TAG)
        if mark and heartbeat.TAG in run.data.tags:
            over = heartbeat.is_over(run, mark, now)
        else:
            over = presence.is_dead(mark) if mark else _never_began(run)
        if over:
            with nullcontext() if database_file(mlflow.get_tracking_uri()) else suppress(MlflowException):  # not ours
                client.set_tag(run.info.run_id, "soundstack.closed", "its process was killed; closed by a later start")
                client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.KILLED))


def _never_began(run: StoredRun) -> bool:
    """Tell whether ``mlflow run`` made a run for this project on this machine, and no process of ours signed it.

    Only a SQLite store is known to be of this machine.
    """
    tags = run.data.tags
    source = tags.get(mlflow_tags.MLFLOW_SOURCE_NAME, "").removeprefix("file://")
    return (
        tags.get(mlflow_tags.MLFLOW_SOURCE_TYPE) == "PROJECT"
        and tags.get(mlflow_tags.MLFLOW_PROJECT_BACKEND, "local") == "local"
        and bool({source, source.replace("#", "/")} & {str(PROJECT), *shlex.split(project())})  # REPOSITORY#FOLDER
        and database_file(mlflow.get_tracking_uri()) is not None
        and run.info.run_id != os.environ.get("MLFLOW_RUN_ID")
        and time.time() - run.info.start_time / 1000 > _BEGINS_WITHIN_SECONDS
    )


@whole
def fetched(what: str, failure: type[SoundstackError], remedy: str = "", **source: str) -> Path:
    """Fetch an artifact; ``source`` is what MLflow's ``download_artifacts`` takes.

    Raises:
        failure: It is not there any more: ``what`` cannot be fetched, and the ``remedy``.
    """
    try:
        return Path(mlflow.artifacts.download_artifacts(**source))
    except (MlflowException, OSError) as error:
        raise failure(f"{what} cannot be fetched ({first_line(error)}).{remedy}") from None
