"""One look at every sound file: content hash, length, rate, channels, silence, and whether it can be used at all.

The result is remembered in ``<cache>/scan.sqlite`` by path, size and modification time, so a second run decodes
nothing here. Rows are committed as they come: a killed scan continues.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from soundstack import audio
from soundstack.errors import AudioError, StoreError

_COMMIT_EVERY = 200
_SCHEMA = """CREATE TABLE IF NOT EXISTS scan_1 (
    path TEXT PRIMARY KEY, size INTEGER, modified INTEGER, content TEXT, sample_rate INTEGER,
    frames INTEGER, channels INTEGER, silent INTEGER, problem TEXT)"""


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


def scan_file(path: Path) -> Scan:
    """Decode one file and describe it; a file that cannot be used is described by its problem."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        return Scan("", 0, 0, 0, False, f"cannot be read ({error.strerror})")
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
    results: dict[Path, Scan] = {}
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(cache / "scan.sqlite", timeout=60)) as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute(_SCHEMA)
            known = {
                row[0]: (row[1], row[2], Scan(row[3], row[4], row[5], row[6], bool(row[7]), row[8]))
                for row in database.execute("SELECT * FROM scan_1")
            }
            todo: list[tuple[Path, int, int]] = []
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
            progress(len(results))
            with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
                # In slices, so that a long list neither queues up in memory nor waits for one commit at the end.
                for start in range(0, len(todo), _COMMIT_EVERY):
                    part = todo[start : start + _COMMIT_EVERY]
                    rows = []
                    for (path, size, modified), scan in zip(
                        part, pool.map(scan_file, [item[0] for item in part]), strict=True
                    ):
                        results[path] = scan
                        rows.append(
                            (
                                str(path),
                                size,
                                modified,
                                scan.content,
                                scan.sample_rate,
                                scan.frames,
                                scan.channels,
                                int(scan.silent),
                                scan.problem,
                            )
                        )
                        progress(1)
                    database.executemany("INSERT OR REPLACE INTO scan_1 VALUES (?,?,?,?,?,?,?,?,?)", rows)
                    database.commit()
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"The cache {cache} cannot be used ({error}); free space, mend its rights, or choose another cache_dir."
        ) from error
    return [results[path] for path in paths]
