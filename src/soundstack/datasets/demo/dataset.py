"""The ``demo`` data set: ten everyday sounds, synthesised from formulas and a seed, so nothing is downloaded.

On disk it looks like ESC-50: ``audio/{fold}-{source}-{take}-{label}.wav`` (16-bit mono) and a table
``meta/demo.csv`` with the columns ``filename,fold,label,source,take``. Folds 1 to 4 are the development set,
fold 5 is the test set. Every source (one instrument, bird, street, ...) is recorded in two takes, and both
lie in one fold.

``meta/demo.json`` is written first and says what the folder is made from; every sound file is written under a
temporary name and then renamed, so a file that exists is complete; the table is written last, so a folder
with a table is complete. A write that was killed is continued by the next one, and of two processes that write the
same folder the second waits for the first. A clip depends on seed, fold, class, source and take alone, not on the
number of clips, on jobs, or on the order in which they are made.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import soundfile

from soundstack.datasets.clips import TEST, Clip, DataSet, check_splits
from soundstack.datasets.demo.synthesis import FORMULA_VERSION, SOUNDS, synthesise
from soundstack.utils.errors import DataError
from soundstack.utils.files import remove_unfinished, write_atomically
from soundstack.utils.locks import exclusive

LABELS = tuple(sorted(SOUNDS))
SECONDS = 4.0
SAMPLE_RATE = 16_000
FOLDS = ("1", "2", "3", "4", "5")
TEST_FOLD = FOLDS[-1]
TAKES = "AB"
CLIPS_PER_CLASS_AND_FOLD = 8
#: Clips of the data set as it is used by default.
CLIPS = len(LABELS) * len(FOLDS) * CLIPS_PER_CLASS_AND_FOLD


@dataclass(frozen=True)
class _Row:
    """One line of the table."""

    filename: str
    fold: str
    label: str
    source: str
    take: str


def write(
    folder: Path,
    *,
    seed: int = 0,
    clips_per_class_and_fold: int = CLIPS_PER_CLASS_AND_FOLD,
    jobs: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> None:
    """Synthesise the data set into ``folder``, or finish what an interrupted call began.

    ``jobs`` threads work at once (0: one per core); the result does not depend on it. ``progress`` is called
    in the caller's thread with the number of clips done since the last call, first with those found. A folder
    that is already complete is left alone.

    Raises:
        DataError: if a parameter is out of range, if the folder holds other files or a demo data set made
            from other parameters or formulas, or if it cannot be written.
        StoreError: if the folder cannot be locked.
    """
    if seed < 0 or jobs < 0:
        raise DataError(f"The demo data set needs a seed and jobs of 0 or more, not {seed} and {jobs}.")
    if clips_per_class_and_fold < 1:
        raise DataError(f"The demo data set needs at least 1 clip per class and fold, not {clips_per_class_and_fold}.")
    recipe = {"formulas": FORMULA_VERSION, "seed": seed, "clips_per_class_and_fold": clips_per_class_and_fold}
    rows = list(_plan(clips_per_class_and_fold))
    try:
        _claim(folder, recipe)
        if _table(folder).exists() and not _missing(folder, rows):
            progress(len(rows))
            return
        with exclusive(folder / ".lock", "the demo data set"):
            for place in folder.glob("*/"):
                remove_unfinished(place)
            missing = _missing(folder, rows)
            progress(len(rows) - len(missing))
            _write_missing(folder, missing, seed, jobs, progress)
            if missing or not _table(folder).exists():
                write_atomically(_table(folder), _as_csv(rows), instead="cache_dir")
    except OSError as error:
        raise DataError(
            f"Cannot write the demo data set to {folder} ({error.strerror or error}); free space or choose another "
            "folder (cache_dir)."
        ) from error


def load(folder: Path) -> DataSet:
    """The data set in ``folder``, as `write` left it; a clip's group is its source.

    Raises:
        DataError: if the folder holds no complete demo data set.
    """
    table = _table(folder)
    try:
        with table.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            rows = [_Row(**row) for row in reader]
        if any(None in astuple(row) for row in rows):
            raise ValueError("a line is too short")
    except FileNotFoundError:
        raise DataError(f"No complete demo data set in {folder}: {table} is missing. Write it again.") from None
    except (TypeError, ValueError, csv.Error, OSError) as error:
        raise DataError(f"{table} is not the table of a demo data set ({error}). Delete the folder.") from error
    clips = tuple(
        Clip(
            id=row.filename,
            path=folder / "audio" / row.filename,
            label=row.label,
            fold=TEST if row.fold == TEST_FOLD else row.fold,
            group=row.source,
        )
        for row in rows
    )
    for clip in clips:
        if not clip.path.is_file():
            raise DataError(f"The demo data set lacks {clip.path}. Write it again: only what is missing is made.")
    check_splits(clips)
    return DataSet(
        name="demo",
        clips=clips,
        seconds=SECONDS,
        sample_rate=SAMPLE_RATE,
        measure="accuracy",
        licence="CC0 1.0 (made by formulas)",
    )


def _plan(clips_per_class_and_fold: int) -> Iterator[_Row]:
    for fold in FOLDS:
        for number, label in enumerate(LABELS):
            for clip in range(clips_per_class_and_fold):
                source = f"{fold}{number:02d}{clip // len(TAKES):03d}"
                take = TAKES[clip % len(TAKES)]
                yield _Row(f"{fold}-{source}-{take}-{label}.wav", fold, label, source, take)


def _missing(folder: Path, rows: list[_Row]) -> list[_Row]:
    return [row for row in rows if not _is_written(folder / "audio" / row.filename)]


def _write_missing(
    folder: Path,
    missing: list[_Row],
    seed: int,
    jobs: int,
    progress: Callable[[int], object],
) -> None:
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        futures = [pool.submit(_write_clip, folder / "audio" / row.filename, row, seed) for row in missing]
        try:
            for future in as_completed(futures):
                future.result()
                progress(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_clip(path: Path, row: _Row, seed: int) -> None:
    source_rng = np.random.default_rng([seed, int(row.source)])
    take_rng = np.random.default_rng([seed, int(row.source), 1 + TAKES.index(row.take)])
    sound = synthesise(row.label, source_rng, take_rng, SECONDS, SAMPLE_RATE)
    encoded = io.BytesIO()
    samples = np.round(sound * 32767).astype(np.int16)
    soundfile.write(encoded, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    write_atomically(path, encoded.getvalue(), instead="cache_dir")


def _is_written(path: Path) -> bool:
    header, samples = 44, round(SECONDS * SAMPLE_RATE)
    return path.is_file() and path.stat().st_size == header + 2 * samples


def _claim(folder: Path, recipe: dict[str, int]) -> None:
    """Note in the folder what it is made from, or check that it is this."""
    note = folder / "meta" / "demo.json"
    for part in ("audio", "meta"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    # Looked at before the note: another process may begin to write the same data set at this moment.
    occupied = _table(folder).exists() or any((folder / "audio").iterdir())
    if note.exists():
        try:
            found = json.loads(note.read_text(encoding="utf-8"))
        except ValueError:
            found = "something unreadable"
        if found != recipe:
            raise DataError(
                f"{folder} holds a demo data set made from {found}, not from {recipe}: "
                "choose another folder or delete it."
            )
        return
    if occupied:
        raise DataError(f"{folder} holds files that are no demo data set ({note} is missing): choose another folder.")
    write_atomically(note, json.dumps(recipe, indent=1), instead="cache_dir")


def _table(folder: Path) -> Path:
    return folder / "meta" / "demo.csv"


def _as_csv(rows: list[_Row]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(_Row)])
    writer.writerows(astuple(row) for row in rows)
    return text.getvalue().encode()
