"""The tracking store: how it is reached, what its troubles mean for the user, and the runs that nobody will end.

A store that cannot be reached, a full disk and rights that are missing are the user's to mend: they become one line
each. Runs that a killed process left RUNNING are closed here by the next start.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shlex
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import mlflow
import psutil
import requests
from mlflow.entities import Experiment, RunStatus
from mlflow.entities import Run as StoredRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException
from mlflow.utils import mlflow_tags
from sqlalchemy import create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, Pool

from soundstack.config.places import project
from soundstack.tracking import moved_store, presence
from soundstack.utils.errors import SoundstackError, StoreError
from soundstack.utils.locks import exclusive
from soundstack.utils.project import PROJECT
from soundstack.utils.signals import hold, release

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
    """Point MLflow at ``mlflow.db`` where the user stands unless ``MLFLOW_TRACKING_URI`` says otherwise, and check it.

    Raises:
        StoreError: The store cannot be reached, or its artifacts cannot be written from here.
    """
    os.environ.setdefault("MLFLOW_DISABLE_SCHEMA_DETAILS", "true")
    for name, value in _HTTP.items():
        os.environ.setdefault(name, value)
    for logger in ("mlflow.store.db.utils", "urllib3.connectionpool"):  # tracebacks and retries; the error says it all
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    given = mlflow.get_tracking_uri()
    try:
        uri = _absolute(given)
        mlflow.set_tracking_uri(uri)
        client = MlflowClient()
        me()
        with exclusive(
            _creation_lock(uri), "the tracking store", "or name another store"
        ):  # two processes must not create it at once
            _create(uri)
            client.search_experiments(max_results=1)
            experiment = _experiment(client)
            if (database := _database(uri)) is not None:
                number = experiment.experiment_id if experiment is not None else ""
                moved_store.bring_home(database, number, os.environ.get("MLFLOW_RUN_ID"))
                experiment = _experiment(client)
        if experiment is not None:
            _refuse(uri, experiment)
        presence.remove_leftovers(me().path.parent)
        _close_orphans(client, uri)
    except ImportError as error:
        raise StoreError(
            f"The tracking store {_shown(given)} needs a driver that is not here ({first_line(error)}): install it in "
            "this environment, and name it as in postgresql+psycopg2://."
        ) from None
    except UnsupportedModelRegistryStoreURIException:
        raise StoreError(
            f"The tracking store {given} is of no kind that MLflow knows; name one as in sqlite:///mlflow.db, "
            "postgresql://USER@HOST/NAME or http://HOST:5000."
        ) from None
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        reason = trouble(error) if isinstance(error, OSError) else None
        raise reason or StoreError(f"The tracking store {_shown(given)} cannot be used: {_reason(error)}.") from None


def _absolute(uri: str) -> str:
    """Read a store's address from where the user stands; one that cannot be meant is refused.

    Raises:
        StoreError: It is none, or one that MLflow has given up.
    """
    scheme = uri.partition(":")[0] if ":" in uri else ""
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):
        raise StoreError(f"The tracking store {uri} is no address; for a server write http://{uri}.")
    if scheme in ("", "file"):
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
    database = _database(uri)
    if database is None:
        raise StoreError(f"The tracking store {uri} names no file; give one, as in sqlite:///mlflow.db.")
    if database.is_dir():
        raise StoreError(f"The tracking store {uri} is a folder; name a file, as in {uri.rstrip('/')}/mlflow.db.")
    absolute = make_url(uri).set(database=str(database)).render_as_string(hide_password=False)
    if unquote(absolute) == absolute:
        return absolute
    # MLflow would make empty folders whose names are spelt like the address; nobody changes the folder from here on.
    return make_url(uri).set(database=os.path.relpath(database)).render_as_string(hide_password=False)


def _shown(uri: str) -> str:
    """A store's address without its password."""
    try:
        return make_url(uri).render_as_string() if "@" in uri else uri
    except SQLAlchemyError:
        return uri


def me() -> presence.Presence:
    """This process's sign of life."""
    return presence.announce(Path("mlruns", ".alive").absolute())


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


def _database(uri: str) -> Path | None:
    """The file of a SQLite store."""
    if not uri.startswith("sqlite:"):
        return None
    name = make_url(uri).database
    return None if not name or name == ":memory:" else Path(name).absolute()


def _creation_lock(uri: str) -> Path:
    """Beside a database, since other folders' processes may share it."""
    database = _database(uri)
    return Path("mlruns", ".lock").absolute() if database is None else database.with_name(f".{database.name}.lock")


def _create(uri: str) -> None:
    """Lay out a new SQLite store under another name: killed meanwhile, it would be neither new nor usable.

    Any other is reached once: MLflow tries ten times, which takes two minutes.
    """
    database = _database(uri)
    if database is None or (database.exists() and database.stat().st_size):
        if not uri.startswith(("http:", "https:", "file:", "databricks", "uc:")):
            create_engine(uri).connect().close()
        return
    for orphan in database.parent.glob(f".{database.name}.*.tmp*"):
        orphan.unlink(missing_ok=True)
    temporary = database.with_name(f".{database.name}.{os.getpid()}.tmp")
    MlflowClient(_absolute(make_url(uri).set(database=str(temporary)).render_as_string(False))).search_experiments()
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
        if presence.is_dead(mark, me().path.parent) if mark else _never_began(run, uri):
            client.set_tag(run.info.run_id, "soundstack.closed", "its process was killed; closed by a later start")
            client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.KILLED))


def _never_began(run: StoredRun, uri: str) -> bool:
    """Tell whether ``mlflow run`` made a run for this project on this machine, and its process died before it signed.

    Only a SQLite store is known to be of this machine, and only a run that no `mlflow run` and no process of a run
    which lives here can still be about to sign is given up.
    """
    tags = run.data.tags
    source = tags.get(mlflow_tags.MLFLOW_SOURCE_NAME, "").removeprefix("file://")
    if (
        tags.get(mlflow_tags.MLFLOW_SOURCE_TYPE) != "PROJECT"
        or tags.get(mlflow_tags.MLFLOW_PROJECT_BACKEND, "local") != "local"
        or not {source, source.replace("#", "/")} & {str(PROJECT), *shlex.split(project())}  # REPOSITORY#FOLDER
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
        return StoreError(f"No space left on the disk{_where(error)}. Free space{_full_folders()}.")
    if _is_lost(error):
        return LostStoreError(
            f"The tracking store {_shown(mlflow.get_tracking_uri())} cannot be used any more ({_reason(error)})."
        )
    if isinstance(error, OSError) and error.errno in _REFUSED and error.filename:
        return StoreError(f"{error.filename} cannot be written ({error.strerror}); mend its rights.")
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
    places = {"temporary files (TMPDIR)": Path(tempfile.gettempdir()), "this folder": Path.cwd()}
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
