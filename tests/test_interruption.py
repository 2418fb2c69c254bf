"""Killed, full, read-only, gone: what is kept, what the user reads, and where the next start ends."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.tracking import MlflowClient

import crnn as crnn_step
from soundstack.config.steps import CrnnConfig, ExtractConfig
from soundstack.suites import runner
from soundstack.tracking import champion, presence, registered_models, registry, reuse
from soundstack.tracking import run as tracking
from soundstack.tracking import store as tracking_store
from soundstack.training import cross_validation
from soundstack.utils import signals
from soundstack.utils.errors import StoreError
from soundstack.utils.project import PROJECT
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
    train_fold, trained, interruptions = (
        cross_validation.train_fold,
        [],
        [7],
    )  # in the third trial, after its first fold

    def counted(*given: Any) -> Any:
        if len(trained) in interruptions:
            interruptions.clear()
            raise KeyboardInterrupt
        model = train_fold(*given)
        trained.extend([] if model.reused else [model])
        return model

    monkeypatch.setattr(cross_validation, "train_fold", counted)
    with pytest.raises(KeyboardInterrupt):
        tuned(table, tmp_path / "cut")
    resumed = tuned(table, tmp_path / "cut")
    of_both = len(trained)
    trained.clear()
    whole = tuned(table, tmp_path / "whole")
    assert len(whole["trials"]) == 4
    assert resumed == whole
    assert of_both == len(trained), "no fold is trained twice"
    assert not [run for run in MlflowClient().search_runs([os.environ["MLFLOW_EXPERIMENT_ID"]]) if _running(run)]


def _running(run: Any) -> bool:
    return bool(run.info.status == "RUNNING")


def test_a_model_that_is_found_has_its_predictions_even_if_its_run_was_killed_at_once(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(champion, "make_way", killed)
        patch.setattr(tracking.Run, "close", lambda self: None)  # as if the process had ended there
        register("csv-crnn", right=1.0)
    (member,) = registered_models.find_members("csv", "all")
    assert member.artifact("predictions/devel.parquet").is_file()
    assert reuse.find_done(ExtractConfig(), "data1") is None, "a run that did not finish is not reused"


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


def _left_by_mlflow_run(source: Path, minutes_ago: float = 60.0) -> str:
    """A run as `mlflow run` opens it, before our process has put its name on it."""
    tags = {"mlflow.source.type": "PROJECT", "mlflow.source.name": str(source)}
    started = int((time.time() - 60 * minutes_ago) * 1000)
    run = MlflowClient().create_run(os.environ["MLFLOW_EXPERIMENT_ID"], start_time=started, tags=tags)
    return str(run.info.run_id)


def _status(run_id: str) -> str:
    return str(MlflowClient().get_run(run_id).info.status)


def test_a_run_killed_before_it_had_our_name_is_closed_but_only_if_its_project_is_ours(store: str) -> None:
    ours, other = _left_by_mlflow_run(PROJECT), _left_by_mlflow_run(PROJECT / "elsewhere")
    tracking.connect()
    assert (_status(ours), _status(other)) == ("KILLED", "RUNNING")


def test_a_run_whose_process_is_just_starting_is_left_alone(store: str) -> None:
    starting = _left_by_mlflow_run(PROJECT, minutes_ago=1)
    tracking.connect()
    assert _status(starting) == "RUNNING"


def test_a_run_that_was_closed_before_its_process_began_is_open_again_and_finishes(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = _left_by_mlflow_run(PROJECT)
    tracking.connect()
    assert _status(slow) == "KILLED"
    monkeypatch.setenv("MLFLOW_RUN_ID", slow)
    with tracking.run("csv-main", ExtractConfig()) as run:
        assert (run.id, _status(slow)) == (slow, "RUNNING")
    assert _status(slow) == "FINISHED"


def test_a_killed_process_is_told_from_a_living_one_and_its_temporary_folder_is_removed() -> None:
    script = (
        "import sys, time; sys.path.insert(0, 'src')\n"
        "from soundstack.tracking import presence\n"
        "print(presence.mark(), presence.temporary_folder(), flush=True); time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    mark, folder = process.stdout.readline().split()
    host, number, start, namespace = mark.split("|")
    presence.remove_leftovers()
    assert not presence.is_dead(mark)
    assert not presence.is_dead(f"{host}|{number}|{float(start) - 5}|{namespace}"), "the clock was set"
    assert Path(folder).is_dir()
    assert presence.is_dead(f"{host}|{number}|{float(start) - 5000}|{namespace}"), "its number was given again"
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert presence.is_dead(mark), "nobody has asked yet how it ended"
    process.wait()
    assert presence.is_dead(mark)
    for unknown in (f"elsewhere|{number}|{start}|{namespace}", f"{host}|{number}|{start}|1", f"{host}|{number}|/old"):
        assert not presence.is_dead(unknown), "what cannot be known from here"
    presence.remove_leftovers()
    assert not Path(folder).exists()


def ask_for_an_end() -> None:
    signal.raise_signal(signal.SIGINT)  # os.kill may reach another thread, and this one later


def test_a_polite_kill_waits_for_what_must_be_whole(in_a_terminal: None) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), put_off():
        with put_off():
            ask_for_an_end()
            ask_for_an_end()  # `mlflow run` passes on what the terminal has sent
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_is_not_lost_to_an_error_of_what_must_be_whole(in_a_terminal: None) -> None:
    with pytest.raises(KeyboardInterrupt), put_off():
        ask_for_an_end()
        raise ValueError


def test_who_asks_again_later_is_obeyed_at_once(in_a_terminal: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "INSIST_SECONDS", -1.0)
    done = []
    with pytest.raises(KeyboardInterrupt), put_off():
        ask_for_an_end()
        done.append("waited")
        ask_for_an_end()
        done.append("went on")
    assert done == ["waited"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("call", ["log_batch", "log_artifact", "log_inputs", "get_model_version_by_alias"])
def test_an_interrupt_does_not_tear_a_transaction(
    store: str, in_a_terminal: None, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A lock that is left behind would keep the run from being ended."""
    done, work = [], getattr(MlflowClient, call)

    def interrupted(self: MlflowClient, *arguments: Any, **options: Any) -> Any:
        if not done:
            ask_for_an_end()
        done.append(call)
        return work(self, *arguments, **options)

    with pytest.raises(KeyboardInterrupt), tracking.run("csv-crnn", ExtractConfig()) as run:
        monkeypatch.setattr(MlflowClient, call, interrupted)
        run.dataset("csv", "data1", {})
        result = evaluation(1.0)
        run.evaluation(result)
        registry.register(run, ExtractConfig(), recogniser(), result, {"data_fingerprint": "1", "family": "crnn"})
        pytest.fail("went on")
    assert done
    assert _status(run.id) == "KILLED"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_database_that_is_locked_is_tried_again(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_store, "_PAUSES", (0.0, 0.0))
    log, tries = MlflowClient.log_batch, []

    def locked(self: MlflowClient, *arguments: Any, **options: Any) -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise MlflowException("(sqlite3.OperationalError) database is locked", TEMPORARILY_UNAVAILABLE)
        return log(self, *arguments, **options)

    with tracking.run("csv-crnn", ExtractConfig()) as run:
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "log_batch", locked)
            run.tags({"a": "b"})
        assert MlflowClient().get_run(run.id).data.tags["a"] == "b"
        monkeypatch.setattr(tracking_store, "_PAUSES", ())
        tries.clear()
        with monkeypatch.context() as patch, pytest.raises(MlflowException, match="locked"):
            patch.setattr(MlflowClient, "log_batch", locked)
            run.tags({"a": "b"})


def test_a_pruned_trial_is_killed_not_failed(store: str) -> None:
    with tracking.run("csv-crnn", ExtractConfig()) as parent:
        with (
            pytest.raises(optuna.TrialPruned),
            parent.trial("csv-crnn-trial-1", {"batch_size": 8}, optuna.TrialPruned) as trial,
        ):
            raise optuna.TrialPruned("after fold 2: 0.310")
        found = MlflowClient().get_run(trial.id)
        assert (found.info.status, found.data.tags["soundstack.pruned"]) == ("KILLED", "after fold 2: 0.310")
        assert (found.data.params, found.data.tags["mlflow.parentRunId"]) == ({"batch_size": "8"}, parent.id)


def test_an_interrupt_that_was_lost_in_a_library_ends_the_work_at_the_next_run(store: str, in_a_terminal: None) -> None:
    with signals.handled(), pytest.raises(KeyboardInterrupt), tracking.run("csv-main", ExtractConfig()) as main:
        with contextlib.suppress(KeyboardInterrupt):
            ask_for_an_end()
        with tracking.run("csv-crnn", ExtractConfig()):
            pytest.fail("went on")
    assert MlflowClient().get_run(main.id).info.status == "KILLED"


def test_what_another_thread_keeps_whole_holds_nothing(in_a_terminal: None) -> None:
    begun, asked = threading.Event(), threading.Event()

    def write() -> bool:
        with put_off():
            begun.set()
            return asked.wait(PATIENCE)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        assert begun.wait(PATIENCE)
        with pytest.raises(KeyboardInterrupt):
            ask_for_an_end()
        asked.set()
        assert writing.result()
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
    monkeypatch.setattr(reuse, "find_done", lambda settings, data: finished[0] if finished else None)

    def step(settings: Any) -> Any:
        began.set()
        time.sleep(0.5)
        finished.append(register_like())
        return finished[0]

    def register_like() -> Any:
        from soundstack.evaluation.evaluation import RegisteredModel
        from soundstack.evaluation.tables import SystemScores

        return RegisteredModel("demo-crnn", str(len(finished) + 1), True, SystemScores("demo-crnn"))

    outcomes: list[Any] = []

    def do() -> None:
        outcomes.append(runner.do(config, 0, {"crnn": step}, "data", rerun=False))

    first, second = threading.Thread(target=do), threading.Thread(target=do)
    first.start()
    assert began.wait(PATIENCE)
    second.start()
    first.join()
    second.join()
    assert sorted(outcome.note for outcome in outcomes) == ["", "reused"]
    assert len(finished) == 1


def test_the_sockets_of_workers_lie_outside_the_runs_temporary_folder_and_end_with_the_process(store: str) -> None:
    script = (
        "import sys; sys.path.insert(0, 'src')\n"
        "from multiprocessing import util\n"
        "from multiprocessing.connection import Listener\n"
        "from soundstack.tracking import run as tracking; from soundstack.training import workers\n"
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
