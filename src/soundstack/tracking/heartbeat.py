"""Signs of life: how a run in a store on a server, whose process may be on any host, is told from one left behind.

Every open run bears when its process last lived, in a tag that a thread of the process renews. The time is that of the
server, which all hosts ask, so that their own clocks do not matter. Whoever finds it older than ``LIMIT_SECONDS`` takes
the process for dead. A store in a file is of one machine, where processes can be asked (:mod:`presence`), and has none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from threading import Event, Thread

import mlflow
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy import NullPool, create_engine, func, select

from soundstack.tracking import presence
from soundstack.tracking.store_errors import database_file

TAG = "soundstack.heartbeat"
EVERY_SECONDS = 30.0
#: Ten that were missed: more than MLflow tries to reach a server that is silent.
LIMIT_SECONDS = 300.0


def on_server() -> bool:
    """Tell whether the tracking store may be used from several hosts."""
    uri = mlflow.get_tracking_uri()
    return not uri.startswith("file:") and database_file(uri) is None


def server_time() -> float:
    """The seconds since 1970 on the clock of the store's server; on this host's where it does not tell."""
    uri = mlflow.get_tracking_uri()
    if uri.startswith(("http:", "https:")):
        told = http_request(get_default_host_creds(uri), "/health", "GET").headers.get("Date")
        return parsedate_to_datetime(told).timestamp() if told else time.time()
    if uri.startswith("postgresql"):
        with create_engine(uri, poolclass=NullPool).connect() as connection:
            return float(connection.scalar(select(func.extract("epoch", func.now()))) or time.time())
    return time.time()


def sign() -> dict[str, str]:
    """The tag that a run on a server is made with: ``time kernel``."""
    return {TAG: f"{server_time():.0f} {_kernel()}"} if on_server() else {}


@contextmanager
def beating(run_id: str) -> Iterator[None]:
    """Renew the sign of life of a run on a server while the block runs, in the background; that never fails it."""
    ended = Event()

    def renew() -> None:
        while not ended.wait(EVERY_SECONDS):
            with suppress(Exception):  # whatever it is: a later one may get through, and the work goes on
                MlflowClient().set_tag(run_id, TAG, sign()[TAG])

    if on_server():
        Thread(target=renew, name="heartbeat", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def is_over(run: Run, mark: str, now: float) -> bool:
    """Tell whether the process of a run that bears a sign of life is gone; ``now`` is the server's time.

    ``mark`` is its :func:`presence.mark`, by which a process under the same kernel is asked at once.
    """
    told, _, kernel = run.data.tags[TAG].partition(" ")
    return now - float(told) > LIMIT_SECONDS or (bool(kernel) and kernel == _kernel() and presence.is_dead(mark))


@cache
def _kernel() -> str:
    """Tells machines of one name apart, until they start again; empty but on Linux."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
