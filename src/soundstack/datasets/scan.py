"""One look at every sound file: content hash, length, rate, channels, silence, and whether it can be used at all.

The result is remembered in ``<cache>/scan.sqlite`` by path (and stretch), size and modification time, so a second run
decodes nothing here. Rows are committed slice by slice: a killed scan continues. Who makes features of the same files
listens, and gets each file as it is decoded.
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
from soundstack.audio.sound import Sound, Stretch
from soundstack.audio.stretches import Take, takes
from soundstack.utils import slices
from soundstack.utils.code_versions import code_version
from soundstack.utils.errors import AudioError, StoreError
from soundstack.utils.locks import exclusive
from soundstack.utils.project import fingerprint

#: What an earlier decoder said is not reused.
TABLE = f"scan_{code_version('audio.decode', 'audio.stretches')}"
_SCHEMA = f"""CREATE TABLE IF NOT EXISTS {TABLE} (
    path BLOB PRIMARY KEY, size INTEGER, modified INTEGER, content TEXT, sample_rate INTEGER,
    frames INTEGER, channels INTEGER, silent INTEGER, problem TEXT)"""
_RECALL = f"""SELECT content, sample_rate, frames, channels, silent, problem FROM {TABLE}
    WHERE path = ? AND size = ? AND modified = ?"""


@dataclass(frozen=True, slots=True)
class Scan:
    """What is known of a sound; ``problem`` is empty for a usable one, else says what is wrong with it."""

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
    """A sound that is not remembered as its file is: its place in the list, size, modification time in nanoseconds."""

    place: int
    path: Path
    size: int
    modified: int
    stretch: Stretch | None = None

    @property
    def sound(self) -> Sound:
        """What is to be looked at."""
        return Sound(self.path, self.stretch)


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
    return _described(content, samples, rate, decoded)


def scan_stretch(
    take: Take, decoded: Callable[[Scan, Samples, int], object] = lambda scan, samples, rate: None
) -> Scan:
    """Describe a stretch of a file by what takes it, as :func:`scan_file` does; only the stretch is decoded."""
    try:
        samples, rate, content = take()
    except AudioError as error:
        return Scan("", 0, 0, 0, False, str(error))
    return _described(content, samples, rate, decoded)


def _described(content: str, samples: Samples, rate: int, decoded: Callable[[Scan, Samples, int], object]) -> Scan:
    scan = Scan(content, rate, samples.shape[0], samples.shape[1], not samples.any())
    decoded(scan, samples, rate)
    return scan


def scan_files(
    sounds: Sequence[Sound],
    cache: Path,
    *,
    jobs: int,
    progress: Callable[[int], object] = lambda count: None,
    listener: Listener | None = None,
    spread: Spread | None = None,
) -> list[Scan]:
    """Scan files and stretches in this order, in fixed slices of it, taking over what is remembered of unchanged files.

    Of two processes that scan files of the same folders, the second waits for the first and reuses what it found.
    A damaged memory is forgotten. ``jobs`` threads decode (which leaves Python's lock); ``progress`` is called with the
    number of files done since the last call, and ``listener`` gets what is decoded. With ``spread``, that decodes, and
    the listener hears of what is remembered alone.

    Raises:
        StoreError: The cache folder cannot be written.
    """
    folders = fingerprint(sorted({str(sound.path.parent) for sound in sounds}))
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with closing(_memory(cache)) as database:
            results, todo = _recall(database, sounds)
            lock = exclusive(cache / f"scan-{folders}.lock", "the scan of the sound files")
            with lock if todo else nullcontext():
                if todo:  # what another process found meanwhile is known now
                    results, todo = _recall(database, sounds)
                progress(len(results))
                if listener:
                    for scan in results.values():
                        listener.remembered(scan)
                _scan_missing(todo, database, results, progress, spread or _in_threads(jobs, listener))
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"The cache {cache} cannot be used ({error}); free space, mend its rights, or choose another cache_dir."
        ) from error
    return [results[sound] for sound in sounds]


def _recall(database: sqlite3.Connection, sounds: Sequence[Sound]) -> tuple[dict[Sound, Scan], list[Unknown]]:
    """Sort sounds into those whose scan is remembered and those whose files are new or changed."""
    results: dict[Sound, Scan] = {}
    todo: dict[Sound, Unknown] = {}
    for place, sound in enumerate(sounds):
        if sound in results or sound in todo:
            continue
        try:
            status = sound.path.stat()
        except OSError:  # not the cache's fault: the scan says what is wrong with the file
            results[sound] = scan_file(sound.path)
            continue
        key = (_name(sound), status.st_size, status.st_mtime_ns)
        if row := database.execute(_RECALL, key).fetchone():
            content, sample_rate, frames, channels, silent, problem = row
            results[sound] = Scan(content, sample_rate, frames, channels, bool(silent), problem)
        else:
            todo[sound] = Unknown(place, sound.path, status.st_size, status.st_mtime_ns, sound.stretch)
    return results, list(todo.values())


def _name(sound: Sound) -> bytes:
    """What a sound is remembered by; no path holds a zero byte."""
    path = os.fsencode(sound.path)
    return path if sound.stretch is None else path + f"\0{sound.stretch}".encode()


def _scan_missing(
    todo: Sequence[Unknown],
    database: sqlite3.Connection,
    results: dict[Sound, Scan],
    progress: Callable[[int], object],
    spread: Spread,
) -> None:
    parts = [list(part) for _, part in groupby(todo, key=lambda item: item.place // slices.SLICE)]
    with closing(spread(parts)) as done:
        for number, scans in done:
            for item, scan in zip(parts[number], scans, strict=True):
                results[item.sound] = scan
                row = (_name(item.sound), item.size, item.modified, *astuple(scan))
                database.execute(f"INSERT OR REPLACE INTO {TABLE} VALUES (?,?,?,?,?,?,?,?,?)", row)
            database.commit()
            progress(len(scans))


def _in_threads(jobs: int, listener: Listener | None) -> Spread:
    def look(item: Unknown, take: Take | None) -> Look:
        kept: list[Any] = []
        started = time.perf_counter()
        hears = () if listener is None else (lambda *decoded: kept.append(listener.clip(*decoded)),)
        scan = scan_stretch(take, *hears) if take else scan_file(item.path, *hears)
        return Look(scan, kept[0] if kept else None, time.perf_counter() - started)

    def spread(parts: Sequence[Sequence[Unknown]]) -> Scanned:
        items = [item for part in parts for item in part]
        found = takes((item.sound for item in items), nullcontext)
        take = {item.place: found.get(number) for number, item in enumerate(items)}
        with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
            done = slices.in_slices(pool, parts, lambda item: look(item, take[item.place]))
            for number, (_, looks) in enumerate(done):
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
