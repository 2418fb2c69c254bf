"""Signs of life and claims of rows, on the clock of a server."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy import NullPool, create_engine, inspect, text

from local_http import LocalServer
from postgresql import PASSWORD
from soundstack.config.steps import ExtractConfig
from soundstack.tracking import claims, heartbeat, presence
from soundstack.tracking import run as tracking
from soundstack.tracking.store import PROCESS_TAG, close_orphans, connect
from soundstack.tracking.store_errors import without_password
from soundstack.utils.errors import StoreError
from waiting import PATIENCE, until

SOURCE = Path(__file__).resolve().parents[1] / "src"
ELSEWHERE = "other-host|7|1000.00|4026531836"


class Clock:
    """The server's time, which stands until it is told to go on."""

    now = 1_000_000.0


@pytest.fixture
def clock(store: str, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The test's store taken for one on a server, and that server's clock."""
    told = Clock()
    monkeypatch.setattr(heartbeat, "on_server", lambda: True)
    monkeypatch.setattr(heartbeat, "server_time", lambda: told.now)
    connect()
    return told


def left_running(told: float, *, mark: str = ELSEWHERE, kernel: str = "another", **tags: str) -> str:
    """A run whose process on some host lived last at a time; returns its number."""
    signed = {PROCESS_TAG: mark, heartbeat.TAG: f"{told:.0f} {kernel}"}
    return MlflowClient().create_run("0", tags=signed | tags).info.run_id


def status(run: str) -> str:
    return str(MlflowClient().get_run(run).info.status)


def test_a_run_of_another_host_is_closed_once_it_was_silent_too_long(clock: Clock) -> None:
    silent = left_running(clock.now - heartbeat.LIMIT_SECONDS - 1)
    living = left_running(clock.now - heartbeat.LIMIT_SECONDS)
    ahead = left_running(clock.now + 5)
    unsigned = MlflowClient().create_run("0", tags={PROCESS_TAG: ELSEWHERE}).info.run_id
    close_orphans()
    assert [status(run) for run in (silent, living, ahead, unsigned)] == ["KILLED", "RUNNING", "RUNNING", "RUNNING"]
    assert "soundstack.closed" in MlflowClient().get_run(silent).data.tags


def test_a_process_under_the_same_kernel_is_asked_at_once_and_one_of_another_machine_never(clock: Clock) -> None:
    host, _, start, namespace = presence.mark().split("|")
    dead = f"{host}|{2**22 + 1}|{start}|{namespace}"  # beyond the highest number that Linux gives
    assert presence.is_dead(dead)
    here = left_running(clock.now, mark=dead, kernel=heartbeat._kernel())
    there = left_running(clock.now, mark=dead)  # a machine of the same name
    close_orphans()
    assert (status(here), status(there)) == ("KILLED", "RUNNING")


def test_a_run_that_may_not_be_closed_stops_nobody(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    left_running(0.0)

    def refuse(*_: object) -> None:
        raise MlflowException("not yours")

    monkeypatch.setattr(heartbeat, "database_file", lambda _: None)
    monkeypatch.setattr("soundstack.tracking.store.database_file", lambda _: None)
    monkeypatch.setattr(MlflowClient, "set_tag", refuse)
    close_orphans()


def test_an_open_run_renews_its_sign_whatever_goes_wrong_and_its_end_counts(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "EVERY_SECONDS", 0.01)
    asked = threading.Event()
    failing = True

    def time() -> float:
        asked.set()
        if failing and threading.current_thread().name == "heartbeat":
            raise OSError("no answer")
        return clock.now

    monkeypatch.setattr(heartbeat, "server_time", time)

    def told() -> str:
        return str(MlflowClient().get_run(run.id).data.tags[heartbeat.TAG].split()[0])

    with tracking.run("demo-extract", ExtractConfig()) as run:
        assert told() == "1000000"
        clock.now += 1000
        asked.clear()
        assert asked.wait(PATIENCE)
        assert told() == "1000000"
        close_orphans()
        assert status(run.id) == "KILLED", "closed by somebody who could not know"
        failing = False
        until(lambda: told() == "1001000")
    assert status(run.id) == "FINISHED"
    until(lambda: not any(thread.name == "heartbeat" for thread in threading.enumerate()))


def test_a_store_in_a_file_has_no_signs_and_no_claims(store: str) -> None:
    with tracking.run("demo-extract", ExtractConfig()) as run:
        assert not any(thread.name == "heartbeat" for thread in threading.enumerate())
        with claims.claimed("key", "demo-crnn") as shared:
            assert not shared
            assert not {tag for tag in MlflowClient().get_run(run.id).data.tags if tag.startswith("soundstack.claim")}
    assert heartbeat.TAG not in MlflowClient().get_run(run.id).data.tags


def test_the_time_is_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalServer() as server:
        monkeypatch.setattr(BaseHTTPRequestHandler, "date_time_string", lambda *_: "Sun, 06 Nov 1994 08:49:37 GMT")
        mlflow.set_tracking_uri(server.url)
        try:
            assert heartbeat.on_server()
            assert heartbeat.server_time() == 784111777.0
        finally:
            mlflow.set_tracking_uri(None)


# claims ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(claims, "_POLL_SECONDS", 0.01)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("end", ["done", "silent", "claim given back"])
def test_a_row_that_another_host_claimed_before_is_waited_for(
    clock: Clock, end: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = "soundstack.claim.key"
    other = left_running(clock.now, **{tag: str(clock.now - 1)})
    later = left_running(clock.now, **{tag: str(clock.now + 1)})
    left_running(clock.now, **{"soundstack.claim.another": "0"})
    polls: list[float] = []

    def sleep(seconds: float) -> None:
        if seconds != claims._POLL_SECONDS:
            return
        polls.append(seconds)
        if len(polls) == 3:
            if end == "done":
                MlflowClient().set_terminated(other)
            elif end == "silent":
                for run in (later, mine.id):
                    MlflowClient().set_tag(run, heartbeat.TAG, f"{clock.now + 1000:.0f} another")
                clock.now += 1000
            else:
                MlflowClient().delete_tag(other, tag)

    monkeypatch.setattr(claims.time, "sleep", sleep)
    with tracking.run("demo-main", ExtractConfig()) as mine:
        with claims.claimed("key", "demo-crnn") as shared:
            assert shared
            assert len(polls) == 3
            assert tag in MlflowClient().get_run(mine.id).data.tags
        assert tag not in MlflowClient().get_run(mine.id).data.tags
    assert capfd.readouterr().err.count("demo-crnn: under way on another host; waiting for what it makes.") == 1
    assert status(other) == {"done": "FINISHED", "silent": "KILLED", "claim given back": "RUNNING"}[end]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("place", [0, 1])
def test_of_two_claims_at_the_same_second_one_goes_first(
    clock: Clock, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = "soundstack.claim.key"
    runs = sorted(left_running(clock.now) for _ in range(2))
    mine, other = runs[place], runs[1 - place]
    MlflowClient().set_tag(other, tag, str(clock.now))
    polls: list[float] = []

    def sleep(seconds: float) -> None:
        if seconds == claims._POLL_SECONDS:
            polls.append(seconds)
            MlflowClient().set_terminated(other)

    monkeypatch.setattr(claims.time, "sleep", sleep)
    with mlflow.start_run(run_id=mine), claims.claimed("key", "demo-crnn"):
        assert len(polls) == place


# PostgreSQL ------------------------------------------------------------------------------------------------------

KILLED = """
import os, sys; sys.path.insert(0, sys.argv[1])
from soundstack.tracking import presence, run as tracking
from soundstack.config.steps import ExtractConfig
presence.mark = lambda: 'other-host|7|1000.00|4026531836'
with tracking.run('demo-extract', ExtractConfig()) as run:
    print(run.id, flush=True); os.kill(os.getpid(), 9)
"""


@pytest.fixture
def server_store(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store in PostgreSQL, whose address has the password in it."""
    address = database.replace("sound@", f"sound:{PASSWORD}@")
    monkeypatch.delenv("PGPASSWORD")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    mlflow.set_tracking_uri(address)
    connect.cache_clear()
    connect()
    yield address
    connect.cache_clear()
    mlflow.set_tracking_uri(None)


def test_a_store_in_postgresql_serves_several_hosts_and_keeps_its_password_to_itself(
    server_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(SOURCE)], capture_output=True, text=True)
    orphan = done.stdout.split()[-1]
    told, kernel = MlflowClient().get_run(orphan).data.tags[heartbeat.TAG].split()
    assert kernel == heartbeat._kernel()
    assert heartbeat.server_time() >= float(told) - 1
    close_orphans()
    assert status(orphan) == "RUNNING", "it may live"
    with monkeypatch.context() as changed:
        changed.setattr(heartbeat, "LIMIT_SECONDS", -1.0)
        close_orphans()
    assert status(orphan) == "KILLED"
    with tracking.run("demo-extract", ExtractConfig()) as run, claims.claimed("key", "demo-crnn") as shared:
        assert shared
        run.settings(ExtractConfig(), {})
    assert status(run.id) == "FINISHED"

    with create_engine(server_store, poolclass=NullPool).connect() as connection:
        tables = inspect(connection).get_table_names()
        rows = {table: str(connection.execute(text(f'SELECT * FROM "{table}"')).all()) for table in tables}
    assert run.id in rows["tags"]
    assert [table for table, content in rows.items() if PASSWORD in content] == []
    artifacts = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert "config.json" in {path.name for path in artifacts}
    assert [path for path in artifacts if PASSWORD.encode() in path.read_bytes()] == []
    assert PASSWORD not in "".join(capfd.readouterr()) + done.stdout + done.stderr


# passwords -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:S3cret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:S3cr/et@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me:p@S3cret:w@host:x/db", "postgresql://me:***@host:x/db"),
        ("postgresql://host/db?user=me&password=S3cret&sslmode=require", "postgresql://host/db?user=me&password=***&"),
        ("https://me:S3cret@host:5000", "https://me:***@host:5000"),
        ("me:S3cret@host", "me:***@host"),
        ("postgresql://host:5432/db", "postgresql://host:5432/db"),
        ("sqlite:////a:b/c.db", "sqlite:////a:b/c.db"),
    ],
)
def test_an_address_is_shown_without_its_password(address: str, shown: str) -> None:
    assert without_password(address).startswith(shown)
    assert "S3cret" not in without_password(f"no answer from {address}") or "://" not in address


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:S3cret@127.0.0.1:1/db",
        "postgresql://me:S3cr@et@127.0.0.1:1x/db",
        "postgresql://127.0.0.1:1/db?user=me&password=S3cret",
        "http://me:S3cret@127.0.0.1:1",
        "unknown://me:S3cret@host",
        "me:S3cret@host",
    ],
)
def test_a_store_that_cannot_be_used_is_told_without_its_password(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri(address)
    connect.cache_clear()
    try:
        with pytest.raises(StoreError) as error:
            connect()
    finally:
        connect.cache_clear()
        mlflow.set_tracking_uri(None)
    assert not {"S3cr", "et@"} & {error.value.args[0][at : at + 4] for at in range(len(str(error.value)))}
    assert "\n" not in str(error.value)
