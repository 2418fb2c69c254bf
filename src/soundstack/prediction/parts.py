"""What a prediction has finished so far, on disk: a killed run continues, and a second one has nothing to do.

A part is an Arrow file with the windows of many sound files, one after the other, and a list of these files in its
metadata. It is written under a temporary name and renamed. Parts of one model lie in one folder; a file that changed
since is not found in them and is scored again.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from soundstack.audio.find import SoundFile
from soundstack.utils.code_versions import code_version
from soundstack.utils.errors import StoreError
from soundstack.utils.project import fingerprint

Floats = NDArray[np.float64]

_META = b"soundstack"
#: A part is written after so many seconds of work, which is what a kill costs at most, or so many windows.
SECONDS = 10.0
WINDOWS = 50_000


@dataclass(frozen=True)
class Scored:
    """What the model says of one file: its length in seconds, starts and ends (W,) in seconds, probabilities (W, K).

    A file that cannot be used has a ``problem`` and no windows.
    """

    seconds: float
    starts: Floats
    ends: Floats
    probabilities: Floats
    problem: str = ""

    @property
    def mean(self) -> Floats:
        """Probabilities (K,) of the whole file."""
        return np.asarray(self.probabilities.mean(axis=0))


def refused(problem: str) -> Scored:
    """The result of a file that cannot be used."""
    return Scored(0.0, np.empty(0), np.empty(0), np.empty((0, 0)), problem)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path, and rename what was written there to ``path``; nothing is left of a failure.

    Raises:
        StoreError: The disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")  # the name itself may be as long as names can be
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise StoreError(
            f"Cannot write {path} ({error.strerror or error}); free space or choose another output_dir."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@dataclass(frozen=True)
class _Place:
    part: Path
    row: int
    rows: int
    seconds: float
    problem: str


class Parts:
    """The finished files of one model, in a folder of their own."""

    def __init__(self, folder: Path, *, every: float = SECONDS) -> None:
        """Find what is finished; unfinished and damaged parts are removed.

        Args:
            folder: Where the parts lie, one folder a model.
            every: Seconds after which finished files are written.
        """
        self.folder = folder
        self._every = every
        self._places: dict[tuple[str, int, int], _Place] = {}
        self._waiting: list[tuple[SoundFile, Scored]] = []
        self._since = time.monotonic()
        _open_part.cache_clear()
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
        for path in sorted(folder.glob("*.arrow")):
            try:
                self._take(path)
            except (OSError, ValueError, KeyError, pa.ArrowException):
                _open_part.cache_clear()
                path.unlink(missing_ok=True)

    def __contains__(self, file: SoundFile) -> bool:
        return _key(file) in self._places

    def add(self, file: SoundFile, scored: Scored) -> None:
        """Keep a finished file; it is on disk after ``every`` seconds or :meth:`flush`."""
        self._waiting.append((file, scored))
        windows = sum(len(each.starts) for _, each in self._waiting) if len(self._waiting) % 100 == 0 else 0
        if time.monotonic() - self._since >= self._every or max(windows, len(scored.starts)) >= WINDOWS:
            self.flush()

    def flush(self) -> None:
        """Write the files that wait.

        Raises:
            StoreError: The folder cannot be written.
        """
        waiting, self._waiting = self._waiting, []
        self._since = time.monotonic()
        if not waiting:
            return
        good = [scored for _, scored in waiting if not scored.problem]
        classes = good[0].probabilities.shape[1] if good else 0
        joined = {
            "start": pa.array(np.concatenate([each.starts for each in good]) if good else np.empty(0)),
            "end": pa.array(np.concatenate([each.ends for each in good]) if good else np.empty(0)),
        }
        shares = np.concatenate([each.probabilities for each in good]) if good else np.empty((0, 0))
        joined |= {f"p{number}": pa.array(np.ascontiguousarray(shares[:, number])) for number in range(classes)}
        listed = [[*_key(file), len(scored.starts), scored.seconds, scored.problem] for file, scored in waiting]
        table = pa.table(joined).replace_schema_metadata({_META: json.dumps(listed)})
        path = self.folder / f"{uuid.uuid4().hex}.arrow"
        with replacing(path) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
            writer.write_table(table)
        self._take(path)

    def read(self, file: SoundFile) -> Scored:
        """Return what was kept of a file.

        Raises:
            KeyError: It is not finished.
        """
        place = self._places[_key(file)]
        if place.problem:
            return refused(place.problem)
        columns = _open_part(place.part).slice(place.row, place.rows).columns
        starts, ends, *shares = [np.asarray(column, dtype=np.float64) for column in columns]
        return Scored(place.seconds, starts, ends, np.stack(shares, axis=1))

    def _take(self, path: Path) -> None:
        table = _open_part(path)
        row = 0
        places = {}
        for name, size, modified, rows, seconds, problem in json.loads(table.schema.metadata[_META]):
            places[name, size, modified] = _Place(path, row, rows, seconds, problem)
            row += rows
        if row != table.num_rows:
            raise ValueError("row count")
        self._places |= places


@lru_cache(maxsize=64)
def _open_part(path: Path) -> pa.Table:
    # Mapped: a file's windows are read alone, however large the part.
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def _key(file: SoundFile) -> tuple[str, int, int]:
    return str(file.path).encode("utf-8", "backslashreplace").decode(), file.size, file.modified


def model_key(folder: Path, shown: str, device: str) -> str:
    """Identify a model by its name and version, by its files, and by what scores it: equal keys, equal results."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return fingerprint([shown, digest.hexdigest(), device, code_version("prediction")])


@contextmanager
def claim(output: Path, key: str) -> Iterator[Parts]:
    """Hold an output folder alone, and yield the parts of the model with that key.

    Raises:
        StoreError: Another prediction writes there, or the folder cannot be written.
    """
    lock = FileLock(output / ".lock", timeout=0)
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise StoreError(
            f"output_dir: another prediction is writing to {output}; wait for it, or give another folder."
        ) from None
    except OSError as error:
        raise StoreError(
            f"output_dir: {output} cannot be written ({error.strerror or error}); give another folder."
        ) from None
    try:
        yield Parts(output / "parts" / key)
    finally:
        lock.release()
