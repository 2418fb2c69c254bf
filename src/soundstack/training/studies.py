"""Searches kept in a database, where other machines and later commands find what their trials gave.

A study there holds finished trials alone, in order, written by one process at a time: what was under way in a killed
one is in nobody's way. Another process with the same study waits until the first is done or gone, and takes over what
it finished. PostgreSQL frees a lock when the connection that holds it ends, which it notices after a minute where a
host was cut off.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial
from sqlalchemy import NullPool, create_engine, func, make_url, select
from sqlalchemy.exc import SQLAlchemyError

from soundstack.utils.errors import StoreError
from soundstack.utils.locks import exclusive

_POLL_SECONDS = 2.0
#: For libpq: a server that is silent for so many (milli)seconds is lost; by the system's defaults a quarter of an hour.
_PATIENCE = {"connect_timeout": 30, "tcp_user_timeout": 60_000}
#: Probes of an idle connection: else the server finds out after two hours that a host is gone, and a router forgets it.
_KEEP_ALIVE = {"tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3"}


@dataclass(frozen=True)
class Kept:
    """The finished trials of a study, in order, and where the next one is told to."""

    trials: list[FrozenTrial]
    add: Callable[[FrozenTrial], None]


@contextmanager
def kept(uri: str, name: str) -> Iterator[Kept]:
    """Hold the study of a name in the database of an address, which has no password; ``auto``: nothing is kept.

    While another process holds it, say so and wait.

    Raises:
        StoreError: The database cannot be used, lacks its driver, or was lost meanwhile.
    """
    if uri == "auto":
        yield Kept([], lambda trial: None)
        return
    with _explained(uri), _locked(uri, "soundstack", "Its tables"):
        connect_args = {} if uri.startswith("sqlite") else _PATIENCE
        storage = optuna.storages.RDBStorage(uri, {"poolclass": NullPool, "connect_args": connect_args})
    with _locked(uri, name, f"The study {name}") as check:

        def add(trial: FrozenTrial) -> None:
            with _explained(uri):
                check()
                study.add_trial(trial)

        with _explained(uri):
            study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
            trials = study.trials
        yield Kept(trials, add)


@contextmanager
def _locked(uri: str, name: str, what: str) -> Iterator[Callable[[], object]]:
    """Hold a lock among all processes that use a database; yields what raises an error if the lock is lost."""
    if (database := make_url(uri).database) and uri.startswith("sqlite"):
        path = Path(database)
        with exclusive(path.with_name(f".{path.name}.{name}.lock"), what, "or choose another database for studies"):
            yield lambda: None
        return
    with _explained(uri):
        engine = create_engine(uri, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=_PATIENCE)
        connection = engine.connect()
    with connection:
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
        told = False
        with _explained(uri):
            connection.execute(select(*(func.set_config(*setting, False) for setting in _KEEP_ALIVE.items())))
            while not connection.scalar(select(func.pg_try_advisory_lock(number))):
                if not told:
                    print(f"{what}: under way in another process; waiting.", file=sys.stderr, flush=True)
                    told = True
                time.sleep(_POLL_SECONDS)
        yield lambda: connection.scalar(select(1))


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn trouble with the database into a StoreError of one line."""
    try:
        yield
    except ImportError:
        raise StoreError(
            f'studies: {uri} needs a driver that is not here; for PostgreSQL `uv pip install "psycopg[binary]"`.'
        ) from None
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        lines = str(getattr(cause, "orig", None) or cause).strip().splitlines()
        raise StoreError(f"studies: {uri} cannot be used: {lines[0] if lines else type(cause).__name__}.") from None
