"""One look at every sound file: content hash, length, rate, channels, silence, and whether it can be used at all.

The result is remembered in ``<cache>/scan.sqlite`` by path, size and modification time, so a second run decodes
nothing here. Rows are committed slice by slice: a killed scan continues. Who makes features of the same files listens,
and gets each file as it is decoded.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import astuple, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from soundstack.audio import decode as audio
from soundstack.audio.decode import Samples
from soundstack.audio.decoder import opened
from soundstack.utils import slices
from soundstack.utils.code_versions import code_version
from soundstack.utils.errors import AudioError, StoreError
from soundstack.utils.locks import exclusive
from soundstack.utils.project import fingerprint

#: What an earlier decoder said is not reused.
TABLE = f"scan_{code_version('audio.decode')}"
_SCHEMA = f"""CREATE TABLE IF NOT EXISTS {TABLE} (
    path BLOB PRIMARY KEY, size INTEGER, modified INTEGER, content TEXT, sample_rate INTEGER,
    frames INTEGER, channels INTEGER, silent INTEGER, problem TEXT)"""
_RECALL = f"""SELECT content, sample_rate, frames, channels, silent, problem FROM {TABLE}
    WHERE path = ? AND size = ? AND modified = ?"""


@dataclass(frozen=True, slots=True)
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


class Look(NamedTuple):
    """What a decoding thread made of a file: its scan, what the listener made of its samples, and the seconds."""

    scan: Scan
    kept: Any
    seconds: float


class Listener(Protocol):
    """Who takes what a scan decodes, so that it need not be decoded again."""

    def remembered(self, scan: Scan) -> None:
        """Hear of a file that is known already; called before the scan begins."""

    def clip(self, scan: Scan, samples: Samples, rate: int) -> Any:
        """Take a usable file's samples (frames, channels) in a decoding thread; what is returned is kept for the slice.

        What it returns must be small against the samples, or few: all of a slice are kept, and of two more slices.
        """

    def slice(self, looks: Sequence[Look]) -> None:
        """Take the files of a slice, in order, in the calling thread; thereafter they are remembered."""


class Unknown(NamedTuple):
    """A file that is not remembered as it is: its place in the list, size, modification time in nanoseconds."""

    place: int
    path: Path
    size: int
    modified: int


#: What scans slices of files yields: their numbers and scans, in any order.
Scanned = Generator[tuple[int, Sequence[Scan]], None, None]
Spread = Callable[[Sequence[Sequence[Unknown]]], Scanned]


def scan_file(path: Path, decoded: Callable[[Scan, Samples, int], object] = lambda scan, samples, rate: None) -> Scan:
    """Decode one file and describe it; a file that cannot be used is described by its problem.

    ``decoded`` is called with the scan, the samples (frames, channels) and the rate of a usable file.
    """
    try:
        with opened(path) as file:
            raw = file.read()
    except AudioError as error:
        return Scan("", 0, 0, 0, False, str(error))
    return scan_bytes(raw, decoded)


def scan_bytes(raw: bytes, decoded: Callable[[Scan, Samples, int], object] = lambda scan, samples, rate: None) -> Scan:
    """Describe a file by its bytes, as :func:`scan_file` does."""
    content = hashlib.sha256(raw).hexdigest()[:32]
    try:
        samples, rate = audio.decode(raw)
    except AudioError as error:
        return Scan(content, 0, 0, 0, False, str(error))
    scan = Scan(content, rate, samples.shape[0], samples.shape[1], not samples.any())
    decoded(scan, samples, rate)
    return scan


def scan_files(
    paths: Sequence[Path],
    cache: Path,
    *,
    jobs: int,
    progress: Callable[[int], object] = lambda count: None,
    listener: Listener | None = None,
    spread: Spread | None = None,
) -> list[Scan]:
    """Scan files in this order, in fixed slices of it, taking over what is remembered of unchanged ones.

    Of two processes that scan files of the same folders, the second waits for the first and reuses what it found.
    A damaged memory is forgotten. ``jobs`` threads decode (which leaves Python's lock); ``progress`` is called with the
    number of files done since the last call, and ``listener`` gets what is decoded. With ``spread``, that decodes, and
    the listener hears of what is remembered alone.

    Raises:
        StoreError: The cache folder cannot be written.
    """
    folders = fingerprint(sorted({str(path.parent) for path in paths}))
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with closing(_memory(cache)) as database:
            results, todo = _recall(database, paths)
            lock = exclusive(cache / f"scan-{folders}.lock", "the scan of the sound files")
            with lock if todo else nullcontext():
                if todo:  # what another process found meanwhile is known now
                    results, todo = _recall(database, paths)
                progress(len(results))
                if listener:
                    for scan in results.values():
                        listener.remembered(scan)
                _scan_missing(todo, database, results, progress, spread or _in_threads(jobs, listener))
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"The cache {cache} cannot be used ({error}); free space, mend its rights, or choose another cache_dir."
        ) from error
    return [results[str(path)] for path in paths]


def _recall(database: sqlite3.Connection, paths: Sequence[Path]) -> tuple[dict[str, Scan], list[Unknown]]:
    """Sort paths into those whose scan is remembered and those that are new or changed."""
    results: dict[str, Scan] = {}
    todo: dict[str, Unknown] = {}
    for place, path in enumerate(paths):
        name = str(path)
        if name in results or name in todo:
            continue
        try:
            status = path.stat()
        except OSError:  # not the cache's fault: the scan says what is wrong with the file
            results[name] = scan_file(path)
            continue
        key = (os.fsencode(path), status.st_size, status.st_mtime_ns)
        if row := database.execute(_RECALL, key).fetchone():
            content, sample_rate, frames, channels, silent, problem = row
            results[name] = Scan(content, sample_rate, frames, channels, bool(silent), problem)
        else:
            todo[name] = Unknown(place, path, status.st_size, status.st_mtime_ns)
    return results, list(todo.values())


def _scan_missing(
    todo: Sequence[Unknown],
    database: sqlite3.Connection,
    results: dict[str, Scan],
    progress: Callable[[int], object],
    spread: Spread,
) -> None:
    parts = [list(part) for _, part in groupby(todo, key=lambda item: item.place // slices.SLICE)]
    with closing(spread(parts)) as done:
        for number, scans in done:
            for item, scan in zip(parts[number], scans, strict=True):
                results[str(item.path)] = scan
                row = (os.fsencode(item.path), item.size, item.modified, *astuple(scan))
                database.execute(f"INSERT OR REPLACE INTO {TABLE} VALUES (?,?,?,?,?,?,?,?,?)", row)
            database.commit()
            progress(len(scans))


def _in_threads(jobs: int, listener: Listener | None) -> Spread:
    def look(item: Unknown) -> Look:
        kept: list[Any] = []
        started = time.perf_counter()
        if listener is None:
            scan = scan_file(item.path)
        else:
            scan = scan_file(item.path, lambda *decoded: kept.append(listener.clip(*decoded)))
        return Look(scan, kept[0] if kept else None, time.perf_counter() - started)

    def spread(parts: Sequence[Sequence[Unknown]]) -> Scanned:
        with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
            for number, (_, looks) in enumerate(slices.in_slices(pool, parts, look)):
                if listener:  # before it is remembered: what is remembered is not handed on again
                    listener.slice(looks)
                yield number, [look.scan for look in looks]

    return spread


def _memory(cache: Path) -> sqlite3.Connection:
    """Open the memory of scans, or a new one in the place of a damaged one."""
    with exclusive(cache / "scan.lock", "the memory of scans"):
        try:
            return _laid_out(cache / "scan.sqlite")
        except sqlite3.DatabaseError as error:
            # Operational ones (locked, full, read-only) say nothing against what is remembered.
            if isinstance(error, sqlite3.OperationalError):
                raise
            for name in ("scan.sqlite", "scan.sqlite-wal", "scan.sqlite-shm"):
                (cache / name).unlink(missing_ok=True)
            return _laid_out(cache / "scan.sqlite")


def _laid_out(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=60)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        # Not after every commit to the disk itself: a lost power supply may cost the newest rows, a kill none.
        database.execute("PRAGMA synchronous=NORMAL")
        if database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("it is damaged")
        earlier = "SELECT name FROM sqlite_master WHERE name LIKE 'scan!_%' ESCAPE '!' AND name != ?"
        for (name,) in database.execute(earlier, (TABLE,)).fetchall():
            database.execute(f"DROP TABLE {name}")
        database.execute(_SCHEMA)
    except BaseException:
        database.close()
        raise
    return database
