"""One look at every sound file: content hash, length, rate, channels, silence, and whether it can be used at all.

The result is remembered in ``<cache>/scan.sqlite`` by path, size and modification time, so a second run decodes
nothing here. Rows are committed as they come: a killed scan continues.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundstack import audio
from soundstack.decoder import opened
from soundstack.errors import AudioError, StoreError
from soundstack.locks import exclusive

_COMMIT_EVERY = 200
_SCHEMA = """CREATE TABLE IF NOT EXISTS scan_1 (
    path TEXT PRIMARY KEY, size INTEGER, modified INTEGER, content TEXT, sample_rate INTEGER,
    frames INTEGER, channels INTEGER, silent INTEGER, problem TEXT)"""
#: A file that is not remembered as it is: path, size, modification time in nanoseconds.
_Unknown = tuple[Path, int, int]


@dataclass(frozen=True)
class Scan:
    """What is known of a sound file; ``problem`` is empty for a usable one, else says what is wrong with it."""

    content: str
    sample_rate: int
    frames: int
    channels: int
    silent: bool
    problem: str = ""

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate if self.sample_rate else 0.0


class _Damaged(sqlite3.DatabaseError):
    """The memory of scans is not one."""


def scan_file(path: Path) -> Scan:
    """Decode one file and describe it; a file that cannot be used is described by its problem."""
    try:
        with opened(path) as file:
            raw = file.read()
    except AudioError as error:
        return Scan("", 0, 0, 0, False, str(error))
    content = hashlib.sha256(raw).hexdigest()[:32]
    try:
        samples, rate = audio.decode(raw)
    except AudioError as error:
        return Scan(content, 0, 0, 0, False, str(error))
    return Scan(content, rate, samples.shape[0], samples.shape[1], audio.is_silent(samples))


def scan_files(
    paths: Sequence[Path], cache: Path, *, jobs: int, progress: Callable[[int], object] = lambda count: None
) -> list[Scan]:
    """Scan files in parallel, taking over what is remembered of unchanged ones.

    Of two processes, the second waits for the first and takes over what it found. A damaged memory is forgotten.

    Args:
        paths: The files, in any order.
        cache: The cache folder.
        jobs: Number of threads; decoding leaves Python's lock, so threads use all cores.
        progress: Called with the number of files done since the last call.

    Returns:
        One :class:`Scan` a path, in order.

    Raises:
        StoreError: The cache folder cannot be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        results, todo = _remembered(paths, cache)
        if todo:
            with exclusive(cache / "scan.lock", "the scan of the sound files"):
                _prepare(cache)
                results, todo = _remembered(paths, cache)
                progress(len(results))
                _scan_missing(todo, cache, results, jobs, progress)
        else:
            progress(len(results))
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"The cache {cache} cannot be used ({error}); free space, mend its rights, or choose another cache_dir."
        ) from error
    return [results[path] for path in paths]


def _remembered(paths: Sequence[Path], cache: Path) -> tuple[dict[Path, Scan], list[_Unknown]]:
    """Sort paths into those whose scan is remembered and those that are new or changed."""
    rows: list[tuple[Any, ...]] = []
    with suppress(_Damaged), _opened(cache) as database:
        rows = database.execute("SELECT * FROM scan_1").fetchall()
    known = {row[0]: (row[1], row[2], Scan(row[3], row[4], row[5], row[6], bool(row[7]), row[8])) for row in rows}
    results: dict[Path, Scan] = {}
    todo: list[_Unknown] = []
    for path in dict.fromkeys(paths):
        try:
            status = path.stat()
        except OSError:  # not the cache's fault: the scan says what is wrong with the file
            results[path] = scan_file(path)
            continue
        size, modified, scan = known.get(str(path), (-1, -1, None))
        if scan is not None and (size, modified) == (status.st_size, status.st_mtime_ns):
            results[path] = scan
        else:
            todo.append((path, status.st_size, status.st_mtime_ns))
    return results, todo


def _scan_missing(
    todo: Sequence[_Unknown], cache: Path, results: dict[Path, Scan], jobs: int, progress: Callable[[int], object]
) -> None:
    with _opened(cache) as database, ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        # In slices, so that a long list neither queues up in memory nor waits for one commit at the end.
        for start in range(0, len(todo), _COMMIT_EVERY):
            part = todo[start : start + _COMMIT_EVERY]
            rows = []
            for item, scan in zip(part, pool.map(scan_file, [path for path, _, _ in part]), strict=True):
                results[item[0]] = scan
                described = (scan.content, scan.sample_rate, scan.frames, scan.channels, int(scan.silent), scan.problem)
                rows.append((str(item[0]), *item[1:], *described))
                progress(1)
            database.executemany("INSERT OR REPLACE INTO scan_1 VALUES (?,?,?,?,?,?,?,?,?)", rows)
            database.commit()


def _prepare(cache: Path) -> None:
    """Lay out the memory, or a new one in the place of a damaged one; only for who holds the lock."""
    try:
        _lay_out(cache)
    except _Damaged:
        for name in ("scan.sqlite", "scan.sqlite-wal", "scan.sqlite-shm"):
            (cache / name).unlink(missing_ok=True)
        _lay_out(cache)


def _lay_out(cache: Path) -> None:
    with _opened(cache) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(_SCHEMA)
        database.execute("SELECT * FROM scan_1").fetchall()


@contextmanager
def _opened(cache: Path) -> Iterator[sqlite3.Connection]:
    """Open the memory.

    Raises:
        _Damaged: It is no database, or lacks its table.
        sqlite3.Error: It cannot be read or written.
    """
    try:
        with closing(sqlite3.connect(cache / "scan.sqlite", timeout=60)) as database:
            yield database
    except sqlite3.DatabaseError as error:
        # Others (locked, full, read-only) are operational too, and say nothing against what is remembered.
        if "no such table" in str(error) or not isinstance(error, sqlite3.OperationalError):
            raise _Damaged(str(error)) from error
        raise
