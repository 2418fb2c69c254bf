"""Searches kept in a database: nothing in them changes a result, and of two processes one waits for the other."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from sqlalchemy import NullPool, create_engine, text

from postgresql import PASSWORD
from soundstack.config import cli
from soundstack.config.steps import CrnnConfig, MainConfig
from soundstack.crnn import search
from soundstack.crnn import system as crnn
from soundstack.training import studies
from soundstack.utils.errors import ConfigError, StoreError
from test_crnn_tuning import COLUMNS, tune  # noqa: F401  (a fixture)
from waiting import PATIENCE, until

SOURCE = Path(__file__).resolve().parents[1] / "src"


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    return f"sqlite:///{tmp_path}/studies.db" if request.param == "sqlite" else request.getfixturevalue("database")


@pytest.fixture
def kept_tune(tune, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    """Tune as the fixture ``tune`` does, with the study kept at an address, under one name for all."""
    monkeypatch.setattr(crnn, "training_key", lambda *_: "0123456789ab")

    def run(trials: int, where: str, seed: int = 0, parallel_trials: int = 1):
        original = search.CrnnConfig

        def configured(**options):
            return original(**options, studies=where, parallel_trials=parallel_trials)

        monkeypatch.setattr(sys.modules["test_crnn_tuning"], "CrnnConfig", configured)
        return tune(trials, seed)

    return run


def test_a_kept_search_finds_what_one_that_keeps_nothing_finds(kept_tune, address):
    expected, plain, *_ = kept_tune(12, "auto")
    best, trials, opened, _ = kept_tune(12, address)
    assert best == expected
    assert trials[COLUMNS].equals(plain[COLUMNS])
    assert {"COMPLETE", "PRUNED"} == set(trials.state)
    assert len(opened) == 12


def test_another_command_goes_on_from_the_trials_that_are_kept(kept_tune, address):
    expected, plain, *_ = kept_tune(12, "auto")
    assert len(kept_tune(5, address)[2]) == 5
    best, trials, opened, _ = kept_tune(12, address)
    assert [run.name for run, _ in opened] == [f"demo-crnn-trial-{number}" for number in range(5, 12)]
    assert best == expected
    assert trials[COLUMNS].equals(plain[COLUMNS])
    _, fewer, opened, _ = kept_tune(6, address)
    assert opened == []
    assert fewer[COLUMNS].equals(plain[COLUMNS][:6])


@pytest.mark.parametrize("told", [1, 4, 6, 7])
def test_a_batch_that_was_told_in_part_ends_as_a_whole_one(kept_tune, address, told, monkeypatch):
    expected, plain, *_ = kept_tune(12, "auto", parallel_trials=4)
    kept = studies.kept

    @contextmanager
    def dying(uri, name):
        with kept(uri, name) as whole:

            def add(trial):
                if trial.number == told:
                    raise KeyboardInterrupt
                whole.add(trial)

            yield studies.Kept(whole.trials, add)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(studies, "kept", dying)
        kept_tune(12, address, parallel_trials=4)
    best, trials, opened, _ = kept_tune(12, address, parallel_trials=4)
    assert [run.name for run, _ in opened] == [f"demo-crnn-trial-{number}" for number in range(told, 12)]
    assert best == expected
    assert trials[COLUMNS].equals(plain[COLUMNS])


HOLD = """
import sys; sys.path.insert(0, sys.argv[1])
import optuna
from soundstack.training import studies
with studies.kept(sys.argv[2], "study") as kept:
    for number in range(len(kept.trials), 3):
        kept.add(optuna.trial.create_trial(value=number))
    print(len(kept.trials), flush=True)
    sys.stdin.read(1)
"""


def holder(address: str) -> subprocess.Popen[str]:
    """A process that takes the study, fills it up to three trials, says how many there were, and holds it."""
    command = [sys.executable, "-c", HOLD, str(SOURCE), address]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


@pytest.mark.parametrize("end", ["done", "killed"])
def test_a_second_process_waits_until_the_first_is_done_or_gone(address, end):
    first, second = holder(address), None
    try:
        assert first.stdout.readline() == "0\n"
        second = holder(address)
        assert "under way in another process; waiting" in second.stderr.readline()
        assert second.poll() is None
        if end == "done":
            first.stdin.close()
        else:
            first.send_signal(signal.SIGKILL)
        assert second.stdout.readline() == "3\n"
        second.stdin.close()
        assert second.wait(PATIENCE) == 0
    finally:
        for process in filter(None, (first, second)):
            process.kill()
            process.wait()


def test_a_lost_lock_ends_the_search_before_it_writes(database):
    with studies.kept(database, "study") as kept, create_engine(database, poolclass=NullPool).connect() as other:
        kept.add(optuna.trial.create_trial(value=1.0))
        other.execute(text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"))
        until(lambda: not other.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")))
        with pytest.raises(StoreError, match="cannot be used") as error:
            kept.add(optuna.trial.create_trial(value=2.0))
        assert "\n" not in str(error.value)
    with studies.kept(database, "study") as kept:
        assert [trial.value for trial in kept.trials] == [1.0]


def test_two_that_lay_out_a_database_at_once_do_not_disturb_each_other(database):
    problems: list[BaseException] = []

    def open_one(name: str) -> None:
        try:
            with studies.kept(database, name):
                pass
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=open_one, args=(f"study-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_a_database_that_cannot_be_used_is_told_in_one_line(database, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "wrong-password")
    with pytest.raises(StoreError, match="password authentication failed") as error, studies.kept(database, "study"):
        pass
    assert "\n" not in str(error.value)
    assert "wrong-password" not in str(error.value)


def test_a_missing_driver_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with (
        pytest.raises(StoreError, match=r'uv pip install "psycopg\[binary\]"') as error,
        studies.kept("postgresql://host/x", "study"),
    ):
        pass
    assert "\n" not in str(error.value)


# the parameter ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [CrnnConfig, MainConfig])
@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://me:{PASSWORD}@host/studies",
        f"postgresql+psycopg://me:{PASSWORD}@host:5432/studies",
        f"postgresql://host/studies?user=me&password={PASSWORD}",
        f"postgresql://host/studies?sslpassword={PASSWORD}",
        f"postgresql://me:{PASSWORD}/@host/studies",
        f"postgres://me:{PASSWORD}@host/studies",
        f"mysql://me:{PASSWORD}@host/studies",
        f"me:{PASSWORD}@host",
    ],
)
def test_an_address_with_a_password_is_refused_and_not_shown(model, address):
    with pytest.raises(ConfigError, match=r"^studies: (holds a password|give auto, or)") as error:
        cli.parse(model, ["--studies", address])
    assert PASSWORD not in str(error.value)


@pytest.mark.parametrize(
    "address", ["", "studies.db", "sqlite://studies.db", "sqlite:///", "postgresql://", "http://h"]
)
def test_what_is_no_database_is_refused(address):
    with pytest.raises(ConfigError, match="studies: "):
        cli.parse(CrnnConfig, [f"--studies={address}"])


def test_a_relative_file_lies_where_the_user_stands_and_other_addresses_stay(tmp_path):
    assert CrnnConfig(studies="sqlite:///a/b.db").studies == f"sqlite:///{tmp_path}/a/b.db"
    for address in ("auto", "sqlite:////a/b.db", "postgresql://me@host:5432/studies", "postgresql:///x?host=/run"):
        assert CrnnConfig(studies=address).studies == address
