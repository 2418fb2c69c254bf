"""A tracking store and a cache of their own for a `main` that may be killed, and what is read back from them.

The store is read with plain SQL, so that looking at it disturbs nothing: opening it through MLflow would close
orphaned runs, which is one of the things to be watched.
"""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import soundfile

from soundstack.utils.errors import SoakError
from soundstack.utils.project import PROJECT

RATE = 8000
CLASSES = ("buzz", "chirp", "hiss")
FOLDS = ("1", "2", "3", "4", "test")
#: What the tiny data set is called.
NAME = "soak"
MAIN, CRNN, MODEL = f"{NAME}-main", f"{NAME}-crnn", f"{NAME}-fusion"
#: Steps of `main` whose scores make up its result.
SCORED = (CRNN, f"{NAME}-efficientnet_lite0-imagenet", MODEL)
#: Metrics that tell how much was left to do, not what came out.
_EFFORT = {"folds_reused", "examples_made", "examples_reused"}
#: A `main` that takes longer than this hangs.
MAIN_SECONDS = 600.0


class StoredRun(NamedTuple):
    """A run as the store has it; ``process`` is empty until its process has signed it."""

    id: str
    name: str
    status: str
    started: int
    process: int | None
    artifacts: str


@dataclass(frozen=True)
class Result:
    """What a finished `main` found: metrics by run, and digests of its predictions, without times."""

    metrics: Mapping[str, Mapping[str, float]]
    predictions: Mapping[str, str]

    def differences(self, other: Result) -> list[str]:
        """Name what is not exactly equal."""
        names = [
            f"{run}: {name}"
            for run in sorted({*self.metrics, *other.metrics})
            for name in sorted({*self.metrics.get(run, {}), *other.metrics.get(run, {})})
            if self.metrics.get(run, {}).get(name) != other.metrics.get(run, {}).get(name)
        ]
        files = sorted({*self.predictions, *other.predictions})
        return names + [file for file in files if self.predictions.get(file) != other.predictions.get(file)]


def sound(label: str, rng: np.random.Generator, seconds: float = 1.0) -> np.ndarray:
    """One of three easily told sounds with some noise, (samples,) at 8 kHz."""
    t = np.arange(round(RATE * seconds)) / RATE
    pitch = rng.uniform(0.8, 1.25)
    clean = {
        "buzz": np.sign(np.sin(2 * np.pi * 110 * pitch * t)),
        "chirp": np.sin(2 * np.pi * pitch * (400 * t + 900 * (t % 1) ** 2)),
        "hiss": rng.standard_normal(len(t)) * np.sin(2 * np.pi * 3 * pitch * t) ** 2,
    }[label]
    return (0.3 * clean + 0.05 * rng.standard_normal(len(t))).astype(np.float32)


def write_data(folder: Path, seed: int = 7) -> Path:
    """Write a data set for ``dataset=csv``, two clips a class and fold, and return its table."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [("filename", "label", "fold")]
    for label in CLASSES:
        for fold in FOLDS:
            for take in range(2):
                name = f"{label}-{fold}-{take}.{'wav' if take else 'flac'}"
                soundfile.write(folder / name, sound(label, rng), RATE)
                rows.append((name, label, fold))
    table = folder / "clips.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return table


class Template:
    """What all workplaces of a bench start from: the tiny data set, and a store whose tables are laid out already."""

    def __init__(self, folder: Path, store: Path | None = None) -> None:
        self.folder = folder
        self.table = write_data(folder / "data")
        self.store = store or folder / "empty.db"
        if store:
            return
        command = [sys.executable, "-m", "mlflow", "experiments", "search"]  # any question lays out the tables
        done = subprocess.run(
            command, env=plain_environment(f"sqlite:///{self.store}"), capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            raise SoakError(f"No tracking store can be made in {folder}: {last_line(done.stderr)}")


class Workplace:
    """A folder with a store, artifacts, a cache and temporary files of its own."""

    def __init__(self, template: Template, name: str, **settings: object) -> None:
        self.template = template
        self.extra = settings
        self.settings = {
            "dataset": "csv",
            "data_dir": template.table,
            "name": NAME,
            "cache_dir": template.folder / name / "cache",
            "epochs": 3,
            "trials": 2,
            "systems": "crnn,efficientnet_lite0-imagenet",
            **settings,
        }
        self.folder = template.folder / name
        self.store = self.folder / "mlflow.db"
        self.cache = self.folder / "cache"
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir(parents=True)
        shutil.copyfile(template.store, self.store)
        with closing(sqlite3.connect(self.store)) as database, database:
            place = str(self.folder / "artifacts")
            database.execute("UPDATE experiments SET artifact_location = ?", (place,))
        self.uri = f"sqlite:///{self.store}"
        #: Further environment variables of the processes that work here.
        self.variables: dict[str, str] = {}

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the processes that work here."""
        return plain_environment(self.uri) | {"TMPDIR": str(self.temporary)} | self.variables

    def main_command(self, **more: object) -> list[str]:
        """The command line of the project on the tiny data set."""
        given = {**self.settings, **more}
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        return [sys.executable, str(PROJECT / "entrypoints" / "main.py"), *words]

    def start(self, **more: object) -> subprocess.Popen[str]:
        """Start `main` as the leader of a process group of its own; its output is added to the workplace's log."""
        with self.log.open("a", encoding="utf-8") as log:
            return subprocess.Popen(
                self.main_command(**more),
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def main(self, **more: object) -> subprocess.CompletedProcess[str]:
        """Run `main` to its end.

        Raises:
            SoakError: It hangs.
        """
        process = self.start(**more)
        try:
            status = process.wait(MAIN_SECONDS)
        except subprocess.TimeoutExpired:
            raise SoakError(f"main did not end within {MAIN_SECONDS:g} s; see {self.log}") from None
        finally:
            end_group(process)
        return subprocess.CompletedProcess(process.args, status, stderr=self.output)

    @property
    def log(self) -> Path:
        """The output of all processes that worked here."""
        return self.folder / "log"

    @property
    def output(self) -> str:
        """What all processes have said that worked here."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def runs(self) -> list[StoredRun]:
        """The runs in the store, oldest first."""
        query = """
            SELECT r.run_uuid, r.name, r.status, r.start_time, t.value, r.artifact_uri FROM runs r
            LEFT JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'soundstack.process' ORDER BY r.start_time"""
        return [
            StoredRun(id, name, status, started, int(process.split("|")[1]) if process else None, artifacts)
            for id, name, status, started, process, artifacts in self._query(query)
        ]

    def result(self) -> Result:
        """The result of the last finished `main`.

        Raises:
            SoakError: None has finished.
        """
        newest = {run.name: run for run in self.runs() if run.status == "FINISHED"}
        if missing := [name for name in (MAIN, *SCORED) if name not in newest]:
            raise SoakError(f"{self.folder.name}: no finished run of {', '.join(missing)}")
        query = "SELECT key, value FROM latest_metrics WHERE run_uuid = ?"
        metrics = {
            name: {
                key: value
                for key, value in self._query(query, newest[name].id)
                if not key.startswith("seconds") and key not in _EFFORT
            }
            for name in SCORED
        }
        scores = self._query(query, newest[MAIN].id)
        metrics[MAIN] = {key: value for key, value in scores if key.startswith(SCORED)}
        files = [(name, f"{part}.parquet") for name in SCORED for part in ("devel", "test")]
        return Result(
            metrics,
            {f"{name}: {file}": _digest(self.artifact(newest[name], f"predictions/{file}")) for name, file in files},
        )

    def artifact(self, run: StoredRun, path: str) -> Path:
        """Where an artifact of a run lies."""
        return Path(run.artifacts.removeprefix("file://")) / path

    def newest(self, name: str) -> StoredRun:
        """The last finished run of a name."""
        return [run for run in self.runs() if run.name == name and run.status == "FINISHED"][-1]

    def _query(self, query: str, *values: object) -> list[tuple]:
        # Not read-only: what a killed process had begun to write is rolled back by whoever opens the database next.
        with closing(sqlite3.connect(self.store, timeout=60)) as database:
            return database.execute(query, values).fetchall()


class Undisturbed(NamedTuple):
    """A workplace where `main` ran once, what it found, and how long it took."""

    place: Workplace
    result: Result
    seconds: float


def undisturbed(template: Template, count: int = 1, **settings: object) -> list[Undisturbed]:
    """Run `main` in so many workplaces at the same time.

    Raises:
        SoakError: One fails, or their results differ.
    """

    def one(number: int) -> Undisturbed:
        place = Workplace(template, f"undisturbed-{number}", **settings)
        started = time.monotonic()
        done = place.main()
        if done.returncode:
            raise SoakError(f"An undisturbed main fails: {last_line(done.stderr)} (see {place.log})")
        return Undisturbed(place, place.result(), time.monotonic() - started)

    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(one, range(count)))
    for other in found[1:]:
        if differences := found[0].result.differences(other.result):
            raise SoakError(f"Two undisturbed runs differ: {'; '.join(differences[:5])}")
    return found


def plain_environment(uri: str) -> dict[str, str]:
    """The environment without what MLflow was told, with a tracking store of choice."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return kept | {"MLFLOW_TRACKING_URI": uri, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"}


def end_group(process: subprocess.Popen[str], signals: Sequence[int] = (9,), patience: float = 60.0) -> bool:
    """Send signals to a process group, one after the other until its leader has ended; tell whether the first did."""
    for number, name in enumerate(signals):
        try:
            os.killpg(process.pid, name)
        except ProcessLookupError:
            process.wait(patience)
            return number == 0
        try:
            process.wait(patience)
            return number == 0
        except subprocess.TimeoutExpired:
            continue
    return False


def last_line(text: str) -> str:
    """The last line that says something."""
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["nothing was said"])[-1]


def _digest(table: Path) -> str:
    # The file itself may differ in its metadata; the text of a float64 is exact.
    return hashlib.sha256(pd.read_parquet(table).to_csv().encode()).hexdigest()[:16]
