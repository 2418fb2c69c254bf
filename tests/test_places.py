"""Anybody's working directory: where a run's things lie, which stores are refused, and what becomes of moved ones."""

from __future__ import annotations

import ast
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from soundstack.config.steps import ExtractConfig
from soundstack.config.tools import PredictConfig, ReportConfig
from soundstack.tracking import moved_store
from soundstack.tracking import run as tracking
from soundstack.utils.errors import StoreError
from soundstack.utils.project import PROJECT


@pytest.fixture
def standing(
    tmp_path: Path, store_file: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The user's folder, named by the test's parameter, with no store named and a database laid out beforehand."""
    folder = tmp_path / getattr(request, "param", "work")
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # what MLflow sets while the test runs is taken back
    monkeypatch.chdir(folder)
    mlflow.set_tracking_uri(None)
    tracking.connect.cache_clear()
    shutil.copyfile(store_file, folder / "mlflow.db")
    _set_root(folder / "mlflow.db", folder / "mlruns")
    yield folder
    tracking.connect.cache_clear()
    mlflow.set_tracking_uri(None)


def _set_root(database: Path, root: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE experiments SET artifact_location = ? || '/' || experiment_id", (str(root),))


def _again() -> None:
    """As a new process would."""
    tracking.connect.cache_clear()
    mlflow.set_tracking_uri(None)
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def _name_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name a relative store that no other test has: in one process MLflow keeps the connections of an address."""
    (folder / "mlflow.db").rename(folder / f"{folder.parent.name}.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder.parent.name}.db")


def _write_note() -> str:
    with tracking.run("demo-extract", ExtractConfig()) as run:
        (run.folder / "note.txt").write_text("hello", encoding="utf-8")
    return run.id


def _note(run: str, folder: Path) -> str:
    fetched = folder / "fetched"
    fetched.mkdir(exist_ok=True)
    return Path(MlflowClient().download_artifacts(run, "note.txt", str(fetched))).read_text(encoding="utf-8")


# where things lie --------------------------------------------------------------------------------------------------

_RELAY = (
    "import os, subprocess, sys; os.environ['MLFLOW_RUN_ID'] = 'abc'; subprocess.run(sys.argv[2:], cwd=sys.argv[1])"
)


@pytest.mark.parametrize(
    "command", [["{python}", "-c", "{code}"], ["bash", "-c", 'true && "$0" -c "$1" && true', "{python}", "{code}"]]
)
def test_an_entry_point_that_mlflow_run_started_goes_back_to_the_users_folder(
    tmp_path: Path, command: list[str]
) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(PROJECT / 'src')!r})\n"
        "from pathlib import Path\nfrom soundstack.config import places\n"
        "places.stand_with_the_user(); print(Path.cwd(), places.project(), sep='|')"
    )
    words = [word.format(python=sys.executable, code=code) for word in command]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_RUN_ID"}

    def shown(*more: str, project: Path = PROJECT) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", _RELAY, str(project), *words, *more],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return done.stdout.strip().split("|")

    assert shown() == [str(tmp_path), str(PROJECT)]
    assert shown(project=tmp_path.parent) == [str(tmp_path.parent), str(PROJECT)], "started by hand, from elsewhere"
    assert shown("https://example.org/some/soundstack") == [str(tmp_path), "https://example.org/some/soundstack"]


@pytest.mark.parametrize("standing", ["work", "a b", "q?x", "h#x", "p%x", "é日"], indirect=True)
def test_runs_and_artifacts_lie_where_the_user_stands_whatever_the_folder_is_called(
    standing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _name_store(standing, monkeypatch)
    run = _write_note()
    assert _note(run, standing) == "hello"
    assert {f"{standing.parent.name}.db", "mlruns"} <= {path.name for path in standing.iterdir()}
    assert len(list((standing / "mlruns" / "0").rglob("note.txt"))) == 1
    assert [path.name for path in standing.parent.iterdir()] == [standing.name], "nothing beside it"


@pytest.mark.parametrize("standing", ["p%20x"], indirect=True)
def test_a_folder_that_mlflow_reads_as_another_is_refused(standing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _name_store(standing, monkeypatch)
    with pytest.raises(StoreError, match=r"stand in a folder whose path has no %"):
        tracking.connect()


def test_a_relative_store_is_that_of_the_users_folder(standing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (standing / "mlflow.db").rename(standing / "my.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///my.db")
    run = _write_note()
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{standing / 'my.db'}", "for the processes that follow"
    assert _note(run, standing) == "hello"
    assert not (standing / "mlflow.db").exists()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the project's files."""
    folder = tmp_path / "soundstack"
    for name in ("MLproject", "conda.yaml", "entrypoints", "src"):
        source, target = PROJECT / name, folder / name
        folder.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return folder


def _mlflow_run(folder: Path, project: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Extract the tiny data set that lies in the user's folder, as a user who stands there would."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    kept |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
    words = ["--env-manager", "local", "-e", "extract", "-P", "dataset=csv", "-P", "data_dir=sounds/clips.csv"]
    return subprocess.run(
        [sys.executable, "-m", "mlflow", "run", project, *words],
        cwd=folder, env=kept | variables, capture_output=True, text=True, timeout=400,
    )  # fmt: skip


@pytest.mark.e2e
def test_mlflow_run_of_a_git_address_leaves_everything_with_the_user_and_nothing_in_the_clone(
    tmp_path: Path, checkout: Path, tiny_csv: Callable[..., Path]
) -> None:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run(["git", *who, *words], cwd=checkout, check=True)
    user, temporary = tmp_path / "é #1?", tmp_path / "tmp"
    temporary.mkdir()
    tiny_csv(user / "sounds")
    # MLflow takes a file:// address that it can follow for a plain folder; git decodes one, MLflow does not.
    done = _mlflow_run(user, f"file://{tmp_path}/%73oundstack", TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr
    (clone,) = (path.parent for path in temporary.glob("*/MLproject"))
    assert {path.name for path in clone.iterdir()} == {".git", "MLproject", "conda.yaml", "entrypoints", "src"}
    assert {path.name for path in user.iterdir()} == {"sounds", "mlflow.db", ".mlflow.db.lock", "mlruns", "cache"}
    assert len(list(user.glob("mlruns/0/*/artifacts/preview.png"))) == 1
    with closing(sqlite3.connect(user / "mlflow.db")) as connection:
        assert connection.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)]


@pytest.mark.e2e
def test_a_checkout_that_others_own_is_used_from_elsewhere_and_not_written_to(
    tmp_path: Path, checkout: Path, tiny_csv: Callable[..., Path]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in checkout.rglob("*")}
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)  # binds all but root
    checkout.chmod(0o555)
    user = tmp_path / "user"
    tiny_csv(user / "sounds")
    done = _mlflow_run(user, "../soundstack", MLFLOW_TRACKING_URI="sqlite:///my.db")
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in checkout.rglob("*")} == before
    assert {path.name for path in user.iterdir()} == {"sounds", "my.db", ".my.db.lock", "mlruns", "cache"}
    assert len(list(user.glob("mlruns/0/*/artifacts/preview.png"))) == 1
    for path in (checkout, *before):
        path.chmod(0o755)


# stores that cannot be used ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("localhost:5000", r"write http://localhost:5000\.$"),
        ("127.0.0.1:5000", r"write http://127\.0\.0\.1:5000\.$"),
        ("ftp://x", "of no kind that MLflow knows"),
        ("postgresql+nosuch://me:secret@localhost/x", r"me:\*\*\*@localhost/x"),
        ("postgresql://me:secret@localhost/x", r"me:\*\*\*@localhost/x needs a driver that is not here"),
        ("file:./old", "migrate-filestore"),
        ("mlruns2", "migrate-filestore"),
        ("sqlite:///folder", "is a folder; name a file, as in sqlite:///folder/mlflow.db"),
        ("sqlite:////tmp/q?x/my.db", "write it %3F"),
        ("sqlite://", "names no file"),
        ("sqlite:///text.db", "file is not a database"),
        ("http://localhost:1", "connection refused"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line_that_promises_nothing(
    standing: Path, monkeypatch: pytest.MonkeyPatch, store: str, message: str
) -> None:
    (standing / "folder").mkdir()
    (standing / "text.db").write_text("no database " * 100, encoding="utf-8")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StoreError, match=message) as caught, tracking.run("demo-extract", ExtractConfig()):
        pass
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert not hasattr(caught.value, "__notes__")


def test_an_old_store_of_files_in_the_users_folder_is_named(standing: Path) -> None:
    (standing / "mlruns" / "0").mkdir(parents=True)
    (standing / "mlruns" / "0" / "meta.yaml").touch()
    with pytest.raises(StoreError, match="mlruns is a folder of files"):
        tracking.connect()


def test_a_deleted_experiment_is_refused_with_the_ways_out(standing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_note()
    client = MlflowClient()
    other = client.create_experiment("other")
    for experiment in ("0", other):
        client.delete_experiment(experiment)
    for variable, value, name in (("_", "", "Default"), ("MLFLOW_EXPERIMENT_NAME", "other", "other")):
        monkeypatch.setenv(variable, value)
        tracking.connect.cache_clear()
        with pytest.raises(StoreError, match=f"{name}.*experiments restore -x"):
            tracking.connect()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "new")
    tracking.connect.cache_clear()
    assert _note(_write_note(), standing) == "hello"
    for value, message in ((other, "restore"), ("77", "cannot be used: No Experiment with id=77")):
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", value)
        tracking.connect.cache_clear()
        with pytest.raises(StoreError, match=message):
            tracking.connect()


def test_a_folder_that_cannot_be_written_is_one_line(standing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(standing / "mlruns", ignore_errors=True)
    (standing / "mlruns").touch()  # as good as forbidden, and to root as well
    with pytest.raises(StoreError, match="mlruns") as caught:
        _write_note()
    assert "kept" not in str(caught.value)


# moved and copied folders ------------------------------------------------------------------------------------------


def test_a_moved_folder_keeps_its_runs_and_writes_to_its_new_place(
    standing: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _write_note()
    new = standing.rename(standing.parent / "new-place")
    monkeypatch.chdir(new)
    _again()
    second = _write_note()
    assert _note(first, new) == _note(second, new) == "hello"
    assert not standing.exists()
    assert capsys.readouterr().err.count(f"was moved here from {standing}") == 1
    _again()
    tracking.connect()
    assert "moved" not in capsys.readouterr().err


def test_a_copied_folder_has_runs_of_its_own_and_leaves_the_old_one_alone(
    standing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _write_note()
    copy = standing.parent / "copy"
    shutil.copytree(standing, copy)
    before = sorted(standing.rglob("*"))
    monkeypatch.chdir(copy)
    _again()
    second = _write_note()
    shutil.rmtree(copy / "mlruns" / "0" / first)
    assert _note(second, copy) == "hello"
    with pytest.raises(Exception, match="note"):
        _note(first, copy)
    assert sorted(standing.rglob("*")) == before


def test_a_database_copied_without_its_artifacts_is_refused_rather_than_followed_to_the_old_place(
    standing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_note()
    _write_note()
    copy = standing.parent / "copy"
    copy.mkdir()
    shutil.copy(standing / "mlflow.db", copy)
    monkeypatch.chdir(copy)
    before = sorted(standing.rglob("*"))

    def refused() -> None:
        _again()
        with pytest.raises(StoreError, match=rf"comes from {standing}.*copy {standing / 'mlruns'} there"):
            tracking.connect()

    refused()
    some = next(path for path in (standing / "mlruns" / "0").iterdir() if path.is_dir())
    shutil.copytree(some, copy / "mlruns" / "0" / some.name)  # one of two
    refused()
    shutil.move(standing, standing.parent / "away")
    shutil.rmtree(copy / "mlruns" / "0")
    refused()
    shutil.move(standing.parent / "away", standing)
    assert sorted(standing.rglob("*")) == before


def test_a_database_that_keeps_its_artifacts_elsewhere_on_purpose_is_left_as_it_is(
    standing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared" / "all.db"
    shared.parent.mkdir()
    shutil.move(standing / "mlflow.db", shared)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shared}")
    run = _write_note()
    content = shared.read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    moved_store.bring_home(shared, "0")
    assert shared.read_bytes() == content
    assert _note(run, other) == "hello"


def test_models_are_found_after_a_move(standing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from soundstack.tracking import registered_models
    from test_tracking import register

    register("demo-crnn", 0.5)
    new = standing.rename(standing.parent / "new")
    monkeypatch.chdir(new)
    _again()
    found = registered_models.find_model("demo-crnn")
    assert (found.folder / "recogniser.json").is_file()
    with closing(sqlite3.connect(new / "mlflow.db")) as connection:
        assert str(standing) + "/" not in "\n".join(
            line for line in connection.iterdump() if not line.startswith('INSERT INTO "tags"')
        )


# what is said ------------------------------------------------------------------------------------------------------


def test_that_work_is_kept_is_said_only_where_the_command_continues(store: str) -> None:
    def notes(config: ExtractConfig | PredictConfig | ReportConfig) -> list[str]:
        with pytest.raises(KeyboardInterrupt) as caught, tracking.run("x", config):
            raise KeyboardInterrupt
        return getattr(caught.value, "__notes__", [])

    assert notes(ExtractConfig()) == notes(PredictConfig(input="x"))
    assert notes(ExtractConfig()) == ["Finished work is kept; the same command continues."]
    assert notes(ReportConfig()) == []


def test_a_locale_that_is_not_utf_8_changes_nothing(tmp_path: Path) -> None:
    sound = tmp_path / "Gerät"
    code = (
        f"import sys; sys.path.insert(0, {str(PROJECT / 'src')!r})\n"
        "from pathlib import Path\nfrom soundstack.config import cli\n"
        "from soundstack.config.tools import PredictConfig\n"
        "def show(config):\n"
        "    print(sys.flags.utf8_mode, config.input, Path('täble').write_text('日'))\n"
        "cli.run(PredictConfig, show)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    for variables in ({"LC_ALL": "C", "PYTHONUTF8": "0"}, {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"}):
        done = subprocess.run(
            [sys.executable, str(script), "--input", str(sound)],
            cwd=tmp_path, env=os.environ | variables, capture_output=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode("utf-8").replace("\\xe4", "ä").split()[1:] == [str(sound), "1"]
        assert (tmp_path / "täble").read_text(encoding="utf-8") == "日"


def test_every_text_file_is_read_and_written_as_utf_8() -> None:
    missing = []
    for path in [*(PROJECT / "src").rglob("*.py"), *(PROJECT / "entrypoints").glob("*.py")]:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            of, _, name = ast.unparse(call.func).rpartition(".")
            words = [word.value for word in call.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
            text = name in ("read_text", "write_text") or (name == "open" and not any("b" in word for word in words))
            ours = name == "read_text" and call.args  # datasets.listing's, which knows more encodings
            said = "utf-8" in words or "encoding" in {option.arg for option in call.keywords}
            if text and not said and not ours and of not in ("Image", "os", "archive", "av"):
                missing.append(f"{path.name}:{call.lineno}")
    assert missing == []
