"""What a prediction has finished so far, on disk: a killed run continues, and a second one has nothing to do.

An SQLite file a model holds a row a sound file, found by path, size and modification time: a file that changed since
is scored again. Rows are committed every few seconds; what a kill or a lost disk leaves half written is undone by
SQLite, and a damaged store is forgotten.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from soundstack.audio.find import SoundFile
from soundstack.networks.registry import network_modules
from soundstack.recognisers.base import MODULES
from soundstack.recognisers.timelines import Timeline
from soundstack.utils.code_versions import code_version
from soundstack.utils.errors import AudioError, StoreError
from soundstack.utils.locks import exclusive
from soundstack.utils.project import fingerprint

#: Finished files are committed after so many seconds, which is what a kill costs at most.
SECONDS = 10.0
_SCHEMA = """CREATE TABLE IF NOT EXISTS files (
    path BLOB, size INTEGER, modified INTEGER, problem TEXT, seconds REAL, windows INTEGER, found BLOB,
    PRIMARY KEY (path, size, modified))"""
_OF_FILE = "FROM files WHERE path = ? AND size = ? AND modified = ?"


class PredictionStore:
    """The finished files of one model, which ``key`` tells; see :func:`model_key`."""

    def __init__(self, path: Path, *, every: float = SECONDS) -> None:
        """Open the store, or begin a new one in the place of a damaged one; commit after ``every`` so many seconds.

        Raises:
            StoreError: It cannot be read or written.
        """
        self.key, self._path = path.stem, path
        self._every, self._since = every, time.monotonic()
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not _is_whole(path):
                path.unlink()
                path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
            self._database = sqlite3.connect(path)
            self._database.execute(_SCHEMA)

    def __contains__(self, file: SoundFile) -> bool:
        return self._database.execute(f"SELECT 1 {_OF_FILE}", _key(file)).fetchone() is not None

    def add(self, file: SoundFile, found: Timeline | AudioError) -> None:
        """Keep what was found in a file, all but the scores, or is wrong with it.

        It is on disk after ``every`` seconds or :meth:`flush`.

        Raises:
            StoreError: The store cannot be written.
        """
        if isinstance(found, AudioError):
            row: tuple[object, ...] = (str(found), 0.0, 0, b"")
        else:
            none = [] if found.none is None else [found.none]
            values = np.column_stack([found.starts, found.ends, *none, found.probabilities])
            row = ("", found.seconds, len(values), values.tobytes())
        with _writing(self._path):
            self._database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", (*_key(file), *row))
        if time.monotonic() - self._since >= self._every:
            self.flush()

    def flush(self) -> None:
        """Commit what is finished.

        Raises:
            StoreError: The store cannot be written.
        """
        self._since = time.monotonic()
        with _writing(self._path):
            self._database.commit()

    def take(self, part: Path) -> bool:
        """Take over what another store keeps, given by its file; False where that is damaged.

        Raises:
            StoreError: The store cannot be written.
        """
        self.flush()
        with _writing(self._path):
            if not _is_whole(part):
                return False
            self._database.execute("ATTACH ? AS part", (str(part),))
            try:
                self._database.execute("INSERT OR REPLACE INTO files SELECT * FROM part.files")
                self._database.commit()
            finally:
                self._database.execute("DETACH part")
        return True

    def read(self, file: SoundFile, *, none: bool = False) -> Timeline | AudioError:
        """Return what was kept of a file; ``scores`` are empty. ``none`` tells whether the model has none scores.

        Raises:
            KeyError: It is not finished.
        """
        row = self._database.execute(f"SELECT problem, seconds, windows, found {_OF_FILE}", _key(file)).fetchone()
        if row is None:
            raise KeyError(file.name)
        problem, seconds, windows, values = row
        if problem:
            return AudioError(problem)
        starts, ends, *shares = np.frombuffer(values).reshape(windows, -1).T
        none_scores = shares.pop(0) if none else None
        return Timeline(seconds, starts, ends, np.empty((windows, 0)), np.stack(shares, axis=1), none_scores)

    def close(self) -> None:
        """Close the file; what is not committed is lost."""
        self._database.close()


def _is_whole(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path)) as database:
            pages, size = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
            # Of a last page that is cut, SQLite takes what is missing for zeros.
            whole = path.stat().st_size == pages * size
            return whole and bool(database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        return False


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"Cannot write {path} ({error}); free space or choose another output_dir.") from error


def _key(file: SoundFile) -> tuple[bytes, int, int]:
    return os.fsencode(file.path), file.size, file.modified


def model_key(folder: Path, shown: str, device: str) -> str:
    """Identify a model by its name and version, by its files, and by what scores it: equal keys, equal results."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    code = code_version("prediction.run", *MODULES.values(), *network_modules())
    return fingerprint([shown, digest.hexdigest(), device, code])


@contextmanager
def claim(output: Path, key: str) -> Iterator[PredictionStore]:
    """Hold an output folder alone, and yield the store of the model with that key.

    Raises:
        StoreError: Another prediction writes there, or the folder cannot be written.
    """
    refusal = f"output_dir: another prediction is writing to {output}; wait for it, or give another folder."
    with (
        exclusive(output / ".lock", "the prediction", "or give another output_dir", refusal=refusal),
        closing(PredictionStore(output / "parts" / f"{key}.sqlite")) as store,
    ):
        yield store
