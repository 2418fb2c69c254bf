"""Killed, full, read-only, gone: what is kept, what the user reads, and where the next start ends."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy import create_engine, text

import crnn as crnn_step
from soundstack.config.steps import PROJECT, CrnnConfig, ExtractConfig
from soundstack.crnn import system as crnn
from soundstack.suites import runner
from soundstack.tracking import presence, registry
from soundstack.tracking import run as tracking
from soundstack.tracking import store as tracking_store
from soundstack.utils import signals
from soundstack.utils.errors import StoreError
from soundstack.utils.signals import put_off
from test_tracking import crnn as recogniser
from test_tracking import evaluation, register
from waiting import PATIENCE

EPOCHS = 1


def tuned(table: Path, cache: Path, trials: int = 4) -> dict[str, Any]:
    """Tune the CRNN on a tiny data set; return the trials as they were logged, and the scores."""
    config = CrnnConfig(
        dataset="csv", data_dir=str(table), cache_dir=str(cache), epochs=EPOCHS, trials=trials, batch_size=8
    )
    trained = crnn_step.run(config)
    run_id = MlflowClient().get_model_version(trained.name, trained.version).run_id
    path = mlflow.artifacts.download_artifacts(
        run_id=run_id, artifact_path="tuning/trials.csv", dst_path=str(cache / run_id)
    )
    rows = [line.split(",") for line in Path(path).read_text(encoding="utf-8").splitlines()]
    state, value = rows[0].index("state"), rows[0].index("value")
    parameters = [rows[0].index("params_learning_rate"), rows[0].index("params_batch_size")]
    done = [row for row in rows[1:] if row[state] != "FAIL"]
    return {
        "trials": [[row[value], *(row[column] for column in parameters)] for row in done],
        "scores": trained.scores,
    }


def test_a_search_that_is_interrupted_tries_and_finds_what_an_uninterrupted_one_does(
    store: str, tmp_path: Path, tiny_csv: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tiny_csv(tmp_path / "data", folds=3)
    whole = tuned(table, tmp_path / "whole")
    assert len(whole["trials"]) == 4
    train_folds, calls = crnn.train_folds, []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train_folds(*arguments, **options)

    monkeypatch.setattr(crnn, "train_folds", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tuned(table, tmp_path / "cut")
    resumed = tuned(table, tmp_path / "cut")
    assert resumed == whole
    assert len(calls) == 3 + 2 + 1  # two trials and the interrupted one; the two that were left; the final training
    assert not [run for run in MlflowClient().search_runs([os.environ["MLFLOW_EXPERIMENT_ID"]]) if _running(run)]


def _running(run: Any) -> bool:
    return bool(run.info.status == "RUNNING")


def test_a_model_that_is_found_has_its_predictions_even_if_its_run_was_killed_at_once(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(registry, "_champion_elsewhere", killed)
        patch.setattr(tracking.Run, "close", lambda self: None)  # as if the process had ended there
        register("csv-crnn", right=1.0)
    (member,) = registry.find_members("csv", "all")
    assert member.artifact("predictions/devel.parquet").is_file()
    assert registry.find_done(ExtractConfig(), "data1") is None, "a run that did not finish is not taken over"


def test_artifacts_are_sent_once(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    log = MlflowClient.log_artifact

    def counted(self: MlflowClient, run_id: str, path: str, below: str | None = None) -> None:
        sent.append(f"{below}/{Path(path).name}" if below else Path(path).name)
        log(self, run_id, path, below)

    monkeypatch.setattr(MlflowClient, "log_artifact", counted)
    with tracking.run("csv-crnn", ExtractConfig()) as run:
        result = evaluation(1.0)
        run.evaluation(result)
        with run.stage("work"):
            pass
        registry.register(run, ExtractConfig(), recogniser(), result, {"data_fingerprint": "1", "family": "crnn"})
    assert len(sent) == len(set(sent))
    assert {"time.json", "predictions/devel.parquet"} <= set(sent)


# runs that a killed process left ---------------------------------------------------------------------------------


def _left_by_mlflow_run(source: Path) -> str:
    """A run as `mlflow run` opens it, before our process has put its name on it."""
    tags = [RunTag("mlflow.source.type", "PROJECT"), RunTag("mlflow.source.name", str(source))]
    run = MlflowClient().create_run(os.environ["MLFLOW_EXPERIMENT_ID"])
    MlflowClient().log_batch(run.info.run_id, tags=tags)
    return str(run.info.run_id)


def _status(run_id: str) -> str:
    return str(MlflowClient().get_run(run_id).info.status)


def _only_processes_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide an `mlflow run` that runs these tests: to the code it may be about to start any run."""
    alive = tracking_store.psutil.process_iter

    def with_a_run(process: psutil.Process) -> bool:
        try:
            return "MLFLOW_RUN_ID" in process.environ()
        except psutil.Error:
            return False

    monkeypatch.setattr(tracking_store.psutil, "process_iter", lambda: filter(with_a_run, alive()))


def test_a_run_killed_before_it_had_our_name_is_closed_but_only_if_its_project_is_ours(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _only_processes_of_runs(monkeypatch)
    ours, other = _left_by_mlflow_run(PROJECT), _left_by_mlflow_run(PROJECT / "elsewhere")
    tracking.connect.cache_clear()
    tracking.connect()
    assert (_status(ours), _status(other)) == ("KILLED", "RUNNING")


def test_a_run_whose_process_is_just_starting_is_left_alone(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _only_processes_of_runs(monkeypatch)
    starting = _left_by_mlflow_run(PROJECT)
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], env=os.environ | {"MLFLOW_RUN_ID": starting}
    )
    try:
        tracking.connect.cache_clear()
        tracking.connect()
        assert _status(starting) == "RUNNING"
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_sign_of_life_tells_a_living_process_from_a_killed_one(tmp_path: Path) -> None:
    script = (
        "import sys, time; sys.path.insert(0, 'src')\n"
        "from pathlib import Path\n"
        "from soundstack.tracking import presence\n"
        f"mine = presence.announce(Path({str(tmp_path)!r}))\n"
        "print(mine.mark, mine.temporary_folder(), flush=True); time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    mark, folder = process.stdout.readline().split()
    presence.remove_leftovers(tmp_path)
    assert not presence.is_dead(mark, tmp_path)
    assert Path(folder).is_dir()
    process.kill()
    process.wait()
    assert presence.is_dead(mark, tmp_path)
    assert not presence.is_dead(mark.replace(mark.split("|")[0], "elsewhere", 1), tmp_path), "another machine's"
    assert presence.is_dead(mark.replace(str(tmp_path), str(tmp_path / "before-it-was-moved")), tmp_path)
    presence.remove_leftovers(tmp_path)
    assert not Path(folder).exists()


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Ctrl-C as in a terminal: a background job has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ask_for_an_end() -> None:
    signal.raise_signal(signal.SIGINT)  # os.kill may reach another thread, and this one later


def test_a_polite_kill_waits_for_what_must_be_whole(interrupts: None) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), put_off():
        with put_off():
            ask_for_an_end()
            ask_for_an_end()  # `mlflow run` passes on what the terminal has sent
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_is_not_lost_to_an_error_of_what_must_be_whole(interrupts: None) -> None:
    with pytest.raises(KeyboardInterrupt), put_off():
        ask_for_an_end()
        raise ValueError


def test_who_asks_again_later_is_obeyed_at_once(interrupts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "INSIST_SECONDS", -1.0)
    done = []
    with pytest.raises(KeyboardInterrupt), put_off():
        ask_for_an_end()
        done.append("waited")
        ask_for_an_end()
        done.append("went on")
    assert done == ["waited"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_does_not_tear_a_transaction(tmp_path: Path, interrupts: None) -> None:
    """A lock that is left behind would keep the run from being ended."""
    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    done = []
    with pytest.raises(KeyboardInterrupt), engine.connect() as connection:
        connection.execute(text("CREATE TABLE x (y)"))
        ask_for_an_end()
        done.append("read")
        connection.execute(text("INSERT INTO x VALUES (1)"))
        connection.commit()
    assert done == ["read"]
    with sqlite3.connect(tmp_path / "x.db", timeout=0) as database:
        assert database.execute("SELECT * FROM x").fetchall() == [(1,)]
        database.execute("INSERT INTO x VALUES (2)")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_was_lost_in_a_library_ends_the_work_at_the_next_run(store: str, interrupts: None) -> None:
    with signals.handled(), pytest.raises(KeyboardInterrupt), tracking.run("csv-main", ExtractConfig()) as main:
        with contextlib.suppress(KeyboardInterrupt):
            ask_for_an_end()
        with tracking.run("csv-crnn", ExtractConfig()):
            pytest.fail("went on")
    assert MlflowClient().get_run(main.id).info.status == "KILLED"


def test_a_connection_of_another_thread_holds_nothing(tmp_path: Path, interrupts: None) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    with ThreadPoolExecutor(1) as pool:
        connection = pool.submit(engine.connect).result()
        with pytest.raises(KeyboardInterrupt):
            ask_for_an_end()
        pool.submit(connection.close).result()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# stores and disks that fail --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MlflowException("API request to http://gone failed with exception refused"), "cannot be used any more"),
        (MlflowException("(sqlite3.OperationalError) database or disk is full"), "No space left"),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x.png"), "of /tmp/x.png"),
        (PermissionError(errno.EACCES, "Permission denied", "/tmp/x.png"), "mend its rights"),
    ],
)
def test_a_store_or_disk_that_fails_in_the_middle_is_one_line_that_says_how_to_go_on(
    store: str, error: Exception, message: str
) -> None:
    with (
        pytest.raises(StoreError, match=message) as caught,
        tracking.run("csv-main", ExtractConfig()),
        tracking.run("csv-crnn", ExtractConfig()),
    ):
        raise error
    assert "\n" not in str(caught.value)
    assert caught.value.__notes__ == ["Finished work is kept; the same command continues."]
    assert mlflow.active_run() is None


def test_a_bug_keeps_its_traceback(store: str) -> None:
    with pytest.raises(MlflowException, match="not allowed"), tracking.run("csv-crnn", ExtractConfig()):
        raise MlflowException("Changing param values is not allowed.")
    with pytest.raises(FileNotFoundError), tracking.run("csv-crnn", ExtractConfig()):
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")


# two at once -----------------------------------------------------------------------------------------------------


def test_of_two_that_want_the_same_row_one_does_it_and_the_other_takes_it_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CrnnConfig(dataset="demo", cache_dir=str(tmp_path))
    finished: list[Any] = []
    began = threading.Event()
    monkeypatch.setattr(registry, "find_done", lambda settings, data: finished[0] if finished else None)

    def step(settings: Any) -> Any:
        began.set()
        time.sleep(0.5)
        finished.append(register_like())
        return finished[0]

    def register_like() -> Any:
        from soundstack.evaluation.evaluation import Trained
        from soundstack.evaluation.tables import SystemScores

        return Trained("demo-crnn", str(len(finished) + 1), True, SystemScores("demo-crnn"))

    outcomes: list[Any] = []

    def do() -> None:
        outcomes.append(runner._do("demo-crnn", 0, config, step, "data", False))

    first, second = threading.Thread(target=do), threading.Thread(target=do)
    first.start()
    assert began.wait(PATIENCE)
    second.start()
    first.join()
    second.join()
    assert sorted(outcome.note for outcome in outcomes) == ["", "taken over"]
    assert len(finished) == 1


def test_the_sockets_of_workers_lie_outside_the_runs_temporary_folder_and_end_with_the_process(store: str) -> None:
    script = (
        "import sys; sys.path.insert(0, 'src')\n"
        "from multiprocessing import util\n"
        "from multiprocessing.connection import Listener\n"
        "from soundstack.tracking import run as tracking; from soundstack.crnn import fold_workers as workers\n"
        "from soundstack.config.steps import ExtractConfig\n"
        "with tracking.run('demo-extract', ExtractConfig()):\n"
        "    workers._settle_sockets()\n"
        "    listener = Listener(family='AF_UNIX')\n"
        "    print(util.get_temp_dir())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    kept = Path(done.stdout.split()[-1])
    assert "soundstack" not in str(kept)
    assert not kept.exists()
