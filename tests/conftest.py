"""What the tests share: fixed seeds, small sound files, a small data set, and the real recordings where they are."""

from __future__ import annotations

import csv
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, settings

import postgresql
from soundstack.config import places

# As in the entry points, and before torch is loaded: on a busy machine, spinning threads cost ten times the work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

PROJECT = Path(__file__).resolve().parents[1]
places.project()  # commands are shown as in the checkout, in whatever folder the test that asks first stands

# The same examples every time, and no limit on the time of one or of making them: other work may share the machine.
settings.register_profile(
    "soundstack",
    deadline=None,
    derandomize=True,
    print_blob=False,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("soundstack")


@pytest.fixture
def in_a_terminal() -> Iterator[None]:
    """Ctrl-C is heeded, also by what a test starts: a shell's background job, and all that it starts, ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in the test's own folder: what a run makes lies where its user stands, and not in the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Start every test from the same random state; torch is seeded only where it is loaded already."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (the global state that libraries draw from)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture
def tone(tmp_path: Path) -> Callable[..., Path]:
    """Write small sound files: ``tone("a.wav", hertz=440)``; the suffix chooses the format.

    Options: ``hertz`` (0: silence), ``seconds``, ``rate``, ``channels`` (the k-th sounds k octaves higher),
    ``amplitude``, ``subtype`` as libsndfile names it, ``folder``.
    """

    def write(
        name: str = "tone.wav",
        *,
        hertz: float = 440.0,
        seconds: float = 1.0,
        rate: int = 8000,
        channels: int = 1,
        amplitude: float = 0.5,
        subtype: str | None = None,
        folder: Path = tmp_path,
    ) -> Path:
        time = np.arange(round(seconds * rate)) / rate
        waves = [amplitude * np.sin(2 * np.pi * hertz * 2**channel * time) for channel in range(channels)]
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.stack(waves, axis=1), rate, subtype=subtype)
        return path

    return write


@pytest.fixture
def tiny_csv() -> Callable[..., Path]:
    """Write a data set for ``dataset=csv``: ``tiny_csv(folder, classes=3, folds=4)`` returns the path of its table.

    A class is a pitch under some noise, so the classes can be told apart. Options: ``each`` (clips a class and
    fold), ``seconds``, ``rate``, ``channels``, ``with_folds=False`` (leave the folds to be drawn), ``seed``.
    """

    def write(
        folder: Path,
        *,
        classes: int = 3,
        folds: int = 4,
        each: int = 1,
        seconds: float = 0.5,
        rate: int = 8000,
        channels: int = 1,
        with_folds: bool = True,
        seed: int = 0,
    ) -> Path:
        generator = np.random.default_rng(seed)
        folder.mkdir(parents=True, exist_ok=True)
        frames = round(seconds * rate)
        rows = []
        for label in range(classes):
            for fold in (*map(str, range(1, folds + 1)), "test"):
                for take in range(each):
                    pitch = 200 * 2**label * generator.uniform(0.97, 1.03)
                    sine = np.sin(2 * np.pi * pitch * np.arange(frames) / rate + generator.uniform(0, 6))
                    noise = generator.standard_normal((frames, channels))
                    name = f"pitch{label}-{fold}-{take}.wav"
                    soundfile.write(folder / name, 0.4 * sine[:, None] + 0.02 * noise, rate)
                    rows.append((name, f"pitch{label}", fold))
        table = folder / "clips.csv"
        with table.open("w", newline="") as file:
            writer = csv.writer(file)
            width = 3 if with_folds else 2
            writer.writerow(("filename", "label", "fold")[:width])
            writer.writerows(row[:width] for row in rows)
        return table

    return write


@pytest.fixture(scope="session")
def esc10() -> Path:
    """The folder of the ESC-10 recordings: ``SOUNDSTACK_ESC10``, or ``shared/data/esc10`` beside the project."""
    folder = Path(os.environ.get("SOUNDSTACK_ESC10") or PROJECT.parent / "shared" / "data" / "esc10")
    if not (folder / "meta" / "esc50.csv").is_file():
        pytest.skip(f"needs the ESC-10 recordings: {folder} has none; set SOUNDSTACK_ESC10 to their folder")
    return folder


@pytest.fixture(scope="session")
def store_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database made once: MLflow takes seconds to lay out its tables."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    from mlflow.tracking import MlflowClient

    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(store_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A tracking store of the test's own, with its artifacts below the test's folder."""
    import mlflow
    from mlflow.tracking import MlflowClient

    from soundstack.tracking import run as tracking

    # A loaded model puts its own code, a part of ours, first: processes that later tests start would take it.
    monkeypatch.setattr(sys, "path", list(sys.path))
    own = tmp_path / "mlflow.db"
    own.write_bytes(store_file.read_bytes())
    uri = f"sqlite:///{own}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    mlflow.set_tracking_uri(uri)
    experiment = MlflowClient().create_experiment("tests", artifact_location=str(tmp_path / "artifacts"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    tracking.connect.cache_clear()
    yield uri
    tracking.connect.cache_clear()
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="session")
def postgresql_server():
    """A PostgreSQL server, its address without a database; skipped where it or its driver is missing."""
    with postgresql.running() as address:
        yield address


@pytest.fixture
def database(postgresql_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty database; the password is in the environment, as users have it."""
    from sqlalchemy import create_engine, text

    monkeypatch.setenv("PGPASSWORD", postgresql.PASSWORD)
    name = f"test_{tmp_path.name}".lower()
    with create_engine(f"{postgresql_server}/postgres", isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    return f"{postgresql_server}/{name}"
